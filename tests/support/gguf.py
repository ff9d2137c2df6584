"""A GGUF file as llama.cpp's converter writes it, of the tiny checkpoint's shape."""

from pathlib import Path

import gguf
import numpy as np

from gemma3build.gemma.architecture import read_architecture
from gemma3build.steps.fetch.gguf import BLOCK_TENSORS, TOP_TENSORS
from tests.support.checkpoint import CONFIG, SPECIAL

SHAPE = read_architecture(CONFIG).shape


def write_gguf(path: Path) -> Path:
    """Write the file; its tensors are F32."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_block_count(SHAPE.layers)
    writer.add_context_length(256)
    writer.add_embedding_length(SHAPE.hidden_size)
    writer.add_feed_forward_length(SHAPE.intermediate_size)
    writer.add_head_count(SHAPE.heads)
    writer.add_head_count_kv(SHAPE.kv_heads)
    writer.add_key_length(SHAPE.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(16)
    writer.add_token_list([SPECIAL.get(n, f"<{n}>") for n in range(SHAPE.vocab_size)])
    writer.add_token_scores([0.0] * SHAPE.vocab_size)
    writer.add_token_types([3 if n in SPECIAL else 4 for n in range(SHAPE.vocab_size)])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    of_block = {there: here for here, there in BLOCK_TENSORS.items()}
    of_top = {there: here for here, there in TOP_TENSORS.items()}
    for name, shape in SHAPE.tensors.items():
        stem = name.removesuffix(".weight")
        _, _, inner = stem.partition("layers.")
        number, _, part = inner.partition(".")
        here = f"blk.{number}.{of_block[part]}" if inner else of_top[stem]
        writer.add_tensor(f"{here}.weight", np.full(shape, 0.5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
