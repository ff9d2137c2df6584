"""Names that the export step gives and later steps look for."""

FLOAT_MODEL = "model_f32.tflite"
CACHE = "kv_cache"  # what the names of the key-value cache's tensors begin with
HIDDEN = -1e9  # what the converter's own masks hold for a position that must not be seen
