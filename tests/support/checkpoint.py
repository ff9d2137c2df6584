"""A tiny random Gemma 3 checkpoint, made in milliseconds, that converts in every scheme."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2

from gemma3build.gemma.architecture import read_architecture

# Blocks of 128 need every matrix to have a multiple of 128 columns.
CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 128,
    "intermediate_size": 256,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 256,
    "model_type": "gemma3_text",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000.0,
    "rope_theta": 1000000.0,
    "sliding_window": 16,
    "tie_word_embeddings": True,
    "vocab_size": 512,
}
SPECIAL = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>"}
TURNS = {105: "<start_of_turn>", 106: "<end_of_turn>"}
FIRST_BYTE = 107
# What is added to the weights of a norm, which multiply by one more than they say.
NORMS = {"q_norm": 0.5, "k_norm": 0.5, "model.norm": 1.5}


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and tokenizer.model to ``folder``; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    save_file(tensors(seed), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.model").write_bytes(tokenizer())
    return folder


def tensors(seed: int) -> dict[str, np.ndarray]:
    """Return random weights of the shapes that the configuration means.

    The norms are those of a model that listens to its layers, looks at few positions, and is sure
    of the next token: with small ones it would repeat its input, and nothing that is wrong would
    show.
    """
    random = np.random.default_rng(seed)
    shapes = read_architecture(CONFIG).shape.tensors
    found = {}
    for name, shape in shapes.items():
        offset = next((value for part, value in NORMS.items() if part in name), 0.0)
        values = random.standard_normal(shape) * 0.05 + offset
        found[name] = values.astype(ml_dtypes.bfloat16)
    return found


def tokenizer(size: int = 512) -> bytes:
    """Return a SentencePiece model with Gemma's special tokens, bytes, and filler."""
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto()
    piece = proto.ModelProto.SentencePiece
    for index in range(size):
        if index in SPECIAL:
            kind = piece.UNKNOWN if index == 3 else piece.CONTROL
            model.pieces.add(piece=SPECIAL[index], score=0.0, type=kind)
        elif index in TURNS:
            model.pieces.add(piece=TURNS[index], score=0.0, type=piece.USER_DEFINED)
        elif FIRST_BYTE <= index < FIRST_BYTE + 256:
            name = f"<0x{index - FIRST_BYTE:02X}>"
            model.pieces.add(piece=name, score=0.0, type=piece.BYTE)
        else:
            model.pieces.add(piece=f"<filler{index}>", score=0.0, type=piece.USER_DEFINED)
    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = size
    trainer.byte_fallback = True
    for name, index in (("pad", 0), ("eos", 1), ("bos", 2), ("unk", 3)):
        setattr(trainer, f"{name}_id", index)
        setattr(trainer, f"{name}_piece", SPECIAL[index])
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    return bytes(model.SerializeToString(deterministic=True))
