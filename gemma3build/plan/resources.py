"""How much memory and disk a step will need, so that a build that cannot fit never starts.

The coefficients are fits to measured runs, rounded up: docs/reference/benchmarks.md has the runs.
"""

from typing import TypedDict

from gemma3build.gemma.architecture import Shape
from gemma3build.gemma.prompts import SCORED, TEXTS
from gemma3build.schema.scheme import Scheme
from gemma3build.util.text import GIBIBYTE

FLOAT32 = 4  # bytes
BFLOAT16 = 2  # bytes
FLOAT64 = 8  # bytes


class Need(TypedDict):
    """Peak memory and written disk, in bytes, as arguments of a ``Step``."""

    memory: int
    disk: int


def import_need(shape: Shape) -> Need:
    """All weights in bfloat16 at once, and the largest tensor in float32 while it is converted."""
    size = shape.parameters * BFLOAT16
    embedding = shape.vocab_size * shape.hidden_size * FLOAT32
    # On disk: the GGUF file and the checkpoint; it is never larger than bfloat16.
    return Need(memory=size + 2 * embedding + GIBIBYTE // 2, disk=2 * size)


def check_need(shape: Shape) -> Need:
    """The file mapped, and the bits of the largest tensor a few times over."""
    embedding = shape.vocab_size * shape.hidden_size * FLOAT32
    return Need(memory=shape.parameters * BFLOAT16 + 2 * embedding + GIBIBYTE // 4, disk=0)


def export_need(shape: Shape, *, lean: bool) -> Need:
    """The float weights, once if lean, and a converter of some two GiB."""
    size = shape.parameters * FLOAT32
    return Need(
        memory=(size * 5 // 4 if lean else 4 * size) + 5 * GIBIBYTE // 2, disk=size + GIBIBYTE // 20
    )


def model_size(shape: Shape, scheme: Scheme) -> int:
    """Return at most how large a scheme's ``.tflite`` is, in bytes."""
    if not scheme.quantized:
        return shape.parameters * FLOAT32
    bits = max(group.bits for group in scheme.groups.values())
    return shape.parameters * bits // 8 + GIBIBYTE // 20


def quantize_need(shape: Shape, scheme: Scheme) -> Need:
    """The float file mapped, the quantized weights, and copies of the largest tensor.

    Equalizing writes a copy of the float file first.
    """
    size = shape.parameters * FLOAT32
    written = model_size(shape, scheme)
    copied = size if scheme.equalize else 0
    return Need(memory=size * 5 // 4 + 2 * written + GIBIBYTE, disk=written + copied)


def bundle_need(model_size: int) -> Need:
    """The bundler holds the model; the archive is written twice, before and after stabilizing."""
    return Need(memory=2 * model_size + GIBIBYTE // 4, disk=2 * model_size)


def package_need(model_size: int) -> Need:
    """The packager copies the model in pieces."""
    return Need(memory=GIBIBYTE // 4, disk=model_size + GIBIBYTE // 100)


def reference_need(shape: Shape) -> Need:
    """The float weights, the logits twice, and the libraries."""
    logits = len(TEXTS) * SCORED * shape.vocab_size * FLOAT32
    size = shape.parameters * FLOAT32
    return Need(memory=size * 5 // 4 + 2 * logits + GIBIBYTE, disk=logits)


def expanded(shape: Shape, scheme: Scheme) -> int:
    """The float32 weights that a runtime makes of stored ones before it computes, in bytes.

    All of them if any group is: an estimate errs on the large side.
    """
    is_float = any(group.compute == "float" for group in scheme.groups.values())
    return shape.parameters * FLOAT32 if is_float else 0


def gate_need(shape: Shape, scheme: Scheme, model_size: int) -> Need:
    """Two runtimes, each with the file and its repacked weights, one after the other."""
    size = 5 * model_size // 2 + expanded(shape, scheme)
    return Need(memory=size + 3 * GIBIBYTE // 2, disk=model_size)


def piqa_need(shape: Shape, scheme: Scheme, model_size: int, length: int) -> Need:
    """The file and its repacked weights, and the logits of two calls."""
    logits = length * shape.vocab_size * FLOAT32
    size = 5 * model_size // 2 + expanded(shape, scheme)
    return Need(memory=size + 3 * logits + GIBIBYTE, disk=GIBIBYTE // 100)


def speed_need(shape: Shape, scheme: Scheme, bundle_size: int) -> Need:
    """The bundle and its repacked weights; the runtime's weight cache on disk."""
    more = expanded(shape, scheme)
    return Need(memory=5 * bundle_size // 2 + more + GIBIBYTE, disk=2 * bundle_size + more)


def calibrate_need(shape: Shape) -> Need:
    """The embedding table as it is stored, one layer in float64, and the activations of the texts."""
    table = shape.vocab_size * shape.hidden_size * BFLOAT16
    layer = (shape.parameters - shape.vocab_size * shape.hidden_size) // shape.layers * FLOAT64
    return Need(memory=table + 2 * layer + GIBIBYTE, disk=GIBIBYTE // 1000)
