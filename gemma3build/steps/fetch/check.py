"""Check a checkpoint before the long work.

Inputs:
    checkpoint: the directory with config.json, safetensors and tokenizer.model.
Parameters:
    shape: the ``Shape`` that the pins name, or null for a user's own checkpoint.
Outputs:
    none; the facts are the architecture and the number of parameters.

The checks in order: is it safe to open, which architecture is it, are the files whole, do the tensors
fit, are all values finite, does the tokenizer fit.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - importing it teaches numpy the name bfloat16
import numpy as np
import sentencepiece
from safetensors import SafetensorError, safe_open

from gemma3build.gemma.architecture import EMBEDDING, Shape
from gemma3build.gemma.checkpoint import (
    LM_HEAD,
    TOKENIZER,
    checkpoint_architecture,
    reject_checkpoint,
    weight_files,
)
from gemma3build.schema.step import StepErrorCode, StepRequest
from gemma3build.util.files import read_bounded
from gemma3build.util.serialize import encode

WEIGHT_TYPES = ("BF16", "F16", "F32")
# Ids that the bundle's metadata and prompts rely on, the same in every Gemma 3 tokenizer.
SPECIAL_TOKENS = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<start_of_turn>": 105,
    "<end_of_turn>": 106,
}
TURN = ("<start_of_turn>", "<end_of_turn>")


def run(request: StepRequest, output: Path) -> dict[str, Any]:  # noqa: ARG001 - writes nothing
    """Check the checkpoint; return its architecture; raises StepError."""
    folder = Path(request.inputs["checkpoint"])
    files = weight_files(folder)
    architecture = checkpoint_architecture(folder)
    check_shape(architecture.shape, request.parameters["shape"])
    check_tensors(files, architecture.shape)
    check_tokenizer(folder / TOKENIZER, architecture.shape.vocab_size)
    return {"architecture": encode(architecture), "parameters": architecture.shape.parameters}


def check_shape(shape: Shape, pinned: Mapping[str, int] | None) -> None:
    """Compare the shape in config.json with that of the pins."""
    for name, value in encode(shape).items():
        if pinned is not None and value != pinned[name]:
            reject_checkpoint(
                StepErrorCode.TENSORS,
                f"{name} is {value}, the pins say {pinned[name]}",
                "The source has changed, or models.toml is wrong about it.",
            )


def check_tensors(files: tuple[Path, ...], shape: Shape) -> None:
    """Compare names, shapes, types and values of all tensors with what the shape gives."""
    expected = shape.tensors
    seen: set[str] = set()
    embedding: np.ndarray | None = None
    lm_head: np.ndarray | None = None
    for path in files:
        for name, kind, extent, bits in read(path):
            wanted = expected[EMBEDDING] if name == LM_HEAD else expected.get(name)
            if wanted is None or name in seen:
                why = "is there twice" if name in seen else "is not part of Gemma 3"
                reject_checkpoint(
                    StepErrorCode.TENSORS, f"the tensor {name} {why}", "Merge adapters first."
                )
            if extent != wanted:
                reject_checkpoint(
                    StepErrorCode.TENSORS,
                    f"{name} has the shape {list(extent)}, config.json gives {list(wanted)}",
                    "Use weights and config.json of one model.",
                )
            check_values(name, kind, bits)
            seen.add(name)
            embedding = bits if name == EMBEDDING else embedding
            lm_head = bits if name == LM_HEAD else lm_head
    if missing := sorted(set(expected) - seen):
        reject_checkpoint(
            StepErrorCode.TENSORS,
            f"{len(missing)} tensors are missing, the first is {missing[0]}",
            "A shard or a part of the model was not saved.",
        )
    if lm_head is not None and (embedding is None or not np.array_equal(lm_head, embedding)):
        reject_checkpoint(
            StepErrorCode.TENSORS,
            "lm_head.weight differs from the embedding; Gemma 3 shares them",
            "Tie the weights before saving the model.",
        )


def read(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], np.ndarray]]:
    """Yield (name, type, shape, bits) of the tensors of a file; bits are unsigned integers."""
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                part = file.get_slice(name)
                kind = part.get_dtype()
                if kind not in WEIGHT_TYPES:
                    reject_checkpoint(
                        StepErrorCode.TENSORS,
                        f"{name} is {kind}, weights must be one of {', '.join(WEIGHT_TYPES)}",
                        "Dequantize the model, then save it in bfloat16.",
                    )
                bits = file.get_tensor(name).view(np.uint32 if kind == "F32" else np.uint16)
                yield name, kind, tuple(part.get_shape()), bits
    except (SafetensorError, OSError) as error:
        reject_checkpoint(
            StepErrorCode.TRUNCATED,
            f"{path.name} is not a whole safetensors file: {error}",
            "Download or save it again.",
        )


# Bits of the exponent: all set means NaN or infinite, IEEE 754 and bfloat16 alike.
EXPONENTS = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}


def check_values(name: str, kind: str, bits: np.ndarray) -> None:
    """Reject a tensor with a value that is NaN or infinite."""
    exponent = bits.dtype.type(EXPONENTS[kind])
    bad = int(np.count_nonzero((bits & exponent) == exponent))
    if bad:
        reject_checkpoint(
            StepErrorCode.VALUES,
            f"{name} holds {bad} values that are NaN or infinite",
            "The training diverged or the file is damaged; use an earlier checkpoint.",
        )


def check_tokenizer(path: Path, vocab_size: int) -> None:
    """Reject a tokenizer that is not a Gemma 3 SentencePiece model of at most this size."""
    hint = "Give the tokenizer.model of the base model with --tokenizer."
    if not path.is_file():
        reject_checkpoint(StepErrorCode.TOKENIZER, "it has no tokenizer.model", hint)
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(read_bounded(path))
        size = processor.GetPieceSize()
        # SentencePiece keeps pieces as bytes: one that is not UTF-8 raises here.
        pieces = {
            index: processor.IdToPiece(index) for index in SPECIAL_TOKENS.values() if index < size
        }
    except (RuntimeError, ValueError) as error:
        reject_checkpoint(
            StepErrorCode.TOKENIZER, f"tokenizer.model is no SentencePiece model: {error}", hint
        )
    # A checkpoint may pad its embedding beyond the tokenizer; the reverse is an error.
    if size > vocab_size:
        why = f"tokenizer.model has {size} pieces, the embedding {vocab_size} rows"
        reject_checkpoint(StepErrorCode.TOKENIZER, why, hint)
    for piece, index in SPECIAL_TOKENS.items():
        if pieces.get(index) != piece:
            reject_checkpoint(
                StepErrorCode.TOKENIZER, f"tokenizer.model has no {piece} at {index}", hint
            )
    for piece in TURN:
        if processor.EncodeAsIds(piece) != [SPECIAL_TOKENS[piece]]:
            reject_checkpoint(
                StepErrorCode.TOKENIZER, f"tokenizer.model splits {piece} in text", hint
            )
