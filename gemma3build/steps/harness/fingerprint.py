"""Compare the weights of two ``.tflite`` files, without regard to their signatures.

An evaluation scores a model that was exported for it. Its figures are those of the artifact only if
every weight is, and a release may have been built by another version of the steps that quantize.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from gemma3build.schema.step import StepError, StepErrorCode
from gemma3build.steps.shared.weights import shape_of, weights
from gemma3build.util.files import sha256_blocks

LAYER = re.compile(r"DecoderBlock_(\d+)/")
NORM = re.compile(r"RMSNorm_(\w+)")
NORM_OP = schema.BuiltinOperator.STABLEHLO_COMPOSITE  # what the converter makes of an RMSNorm


def reject_other_weights(path: Path, artifact: Path) -> None:
    """Compare the weights of the measured file with those of the artifact that it stands for.

    Raises:
        StepError: they differ.
    """
    differing = fingerprints(path) ^ fingerprints(artifact)
    if differing:
        places = sorted({place for place, _ in differing})
        raise StepError(
            StepErrorCode.OTHER_WEIGHTS,
            f"{artifact.name} cannot be measured",
            "its checkpoint, quantized by its scheme, now gives other weights; the first of"
            f" {len(places)} differences is in {places[0]}",
            "Use the version of gemma3build that built the release, or build it again.",
        )


def fingerprints(path: Path) -> frozenset[tuple[str, str]]:
    """Return where each tensor of weights belongs, such as ``attention of layer 3``, and its SHA-256.

    The name of an op does not say which of a layer's matrices it multiplies: where ops were fused, it
    is made of several. So a place is no finer than a group of a layer.
    """
    model = flatbuffer_utils.read_model(str(path))
    digests: dict[int, str] = {}  # by buffer: signatures share them
    prints = set(norms(model))
    for weight in weights(model, {}):
        if weight.buffer not in digests:
            form = (weight.shape, weight.kind, weight.block_size, weight.scales.tolist())
            digests[weight.buffer] = digest(form, model.buffers[weight.buffer].data)
        prints.add((place(weight.group, weight.name), digests[weight.buffer]))
    return frozenset(prints)


def norms(model: Any) -> Iterator[tuple[str, str]]:
    """Yield where the weights of each RMSNorm belong, and their SHA-256."""
    opcodes = [code.builtinCode for code in model.operatorCodes]
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            scope = subgraph.tensors[int(op.outputs[0])].name.decode()
            name = NORM.search(scope)
            if opcodes[op.opcodeIndex] != NORM_OP or name is None:
                continue
            for tensor in (subgraph.tensors[int(index)] for index in op.inputs):
                data = model.buffers[tensor.buffer].data
                if data is not None:
                    yield place(name[1], scope), digest((shape_of(tensor), tensor.type), data)


def place(part: str, scope: str) -> str:
    """Return where weights belong, in words."""
    layers = sorted(set(LAYER.findall(scope)))
    return f"{part} of layer {', '.join(layers)}" if layers else part


def digest(form: object, data: Any) -> str:
    """Return the SHA-256 of a tensor: of its form, and of its bytes."""
    return sha256_blocks([repr(form).encode(), data])
