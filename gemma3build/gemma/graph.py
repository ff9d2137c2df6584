"""Names in an exported graph and of the inputs that calibration measures, shared by the steps."""

FLOAT_MODEL = "model_f32.tflite"
CACHE = "kv_cache"  # what the names of the key-value cache's tensors begin with
HIDDEN = -1e9  # what the converter's own masks hold for a position that must not be seen

QKV, OUTPUT, GATE_UP, DOWN = "qkv", "output", "gate_up", "down"
KINDS = (QKV, OUTPUT, GATE_UP, DOWN)
# The base-2 logarithm of a mean square below which an input counts as silent; it bounds the result
# where an input is always zero.
SILENT = -100.0
