"""Write a checkpoint of random weights, in the fetch image: ``random_checkpoint.py SHAPE.json OUT``."""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from gemma3build.gemma.architecture import Shape

shape = Shape(**json.loads(Path(sys.argv[1]).read_text()))
output = Path(sys.argv[2])
random = np.random.default_rng(0)
tensors = {
    name: (random.standard_normal(size, np.float32) * np.float32(0.02)).astype(ml_dtypes.bfloat16)
    for name, size in shape.tensors.items()
}
save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
config = {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": shape.head_dim,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": shape.hidden_size,
    "intermediate_size": shape.intermediate_size,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": shape.heads,
    "num_hidden_layers": shape.layers,
    "num_key_value_heads": shape.kv_heads,
    "query_pre_attn_scalar": shape.head_dim,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "vocab_size": shape.vocab_size,
}
(output / "config.json").write_text(json.dumps(config))
