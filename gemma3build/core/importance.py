"""How strong each input of a matrix is: what ``calibrate`` writes and ``quantize`` reads."""

QKV, OUTPUT, GATE_UP, DOWN = "qkv", "output", "gate_up", "down"
KINDS = (QKV, OUTPUT, GATE_UP, DOWN)
# The base-2 logarithm of a mean square below which an input counts as silent; it bounds the result
# where an input is never anything but zero.
SILENT = -100.0
