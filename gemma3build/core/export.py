"""Names that the export step gives and later steps look for."""

FLOAT_MODEL = "model_f32.tflite"
