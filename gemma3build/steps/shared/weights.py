"""Find the weights in a ``.tflite``, and check that they are stored as a scheme says."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from gemma3build.schema.scheme import Group, GroupName
from gemma3build.schema.step import StepError, StepErrorCode

# An op's scope is the name of its output tensor, which carries the path of the torch module. The
# LM head is the exception: its output is renamed after the signature's output.
SCOPES: dict[GroupName, tuple[str, ...]] = {
    "embedding": (r"Embedding_tok_embedding", r"^decode_logits_output"),
    "attention": (r"CausalSelfAttention_atten_func.*Linear_(qkv|output)_projection",),
    "feed_forward": (r"GatedFeedForward_ff.*Linear_w[123]",),
}
QKV = r"DecoderBlock_(?:{layers})/.*CausalSelfAttention_atten_func.*Linear_qkv_projection"
WEIGHT_OPS = (schema.BuiltinOperator.EMBEDDING_LOOKUP, schema.BuiltinOperator.FULLY_CONNECTED)
WEIGHT_INPUT = 1  # both ops: input 0 is ids or activations, input 1 the weights
TENSOR_TYPES = {
    4: schema.TensorType.INT4,
    8: schema.TensorType.INT8,
    16: schema.TensorType.FLOAT16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """The weights of one op in a ``.tflite``.

    Attributes:
        group: the group of the scheme that they belong to.
        name: the op's scope, for messages.
        buffer: index of the buffer that holds them.
        shape: of the tensor.
        kind: a ``schema.TensorType``.
        block_size: weights that share a scale; 0 without blocks.
        scales: the scales; empty for float weights.
    """

    group: GroupName
    name: str
    buffer: int
    shape: tuple[int, ...]
    kind: int
    block_size: int
    scales: np.ndarray


def check_weights(path: Path, groups: Mapping[GroupName, Group]) -> dict[str, Any]:
    """Compare the weights in the file with a scheme's groups; return what each group is stored as.

    Raises:
        StepError: naming the first weight that differs.
    """
    present = list(weights(flatbuffer_utils.read_model(str(path)), groups))
    for weight in present:
        check_weight(weight, groups.get(weight.group))
    if missing := sorted(set(SCOPES) - {weight.group for weight in present}):
        reject_weights(f"no op of the groups {', '.join(missing)} was found in it")
    if len({weight.buffer for weight in present if weight.group == "embedding"}) != 1:
        reject_weights("the embedding table and the LM head do not share one buffer")
    return {
        weight.group: {
            "type": tensor_type_name(weight.kind),
            "block_size": weight.block_size,
            "tensors": len({other.buffer for other in present if other.group == weight.group}),
        }
        for weight in present
    }


def scopes(name: GroupName, group: Group) -> tuple[str, ...]:
    """Return the patterns of a group's ops; the ops of ``qkv`` are some of those of ``attention``."""
    if name != "qkv":
        return SCOPES[name]
    layers = r"\d+" if group.layers is None else "|".join(map(str, range(group.layers)))
    return (QKV.format(layers=layers),)


def check_weight(weight: Weight, group: Group | None) -> None:
    """Compare one weight with its group; ``None`` stands for float32."""
    expected = TENSOR_TYPES[group.bits] if group else schema.TensorType.FLOAT32
    block_size = group.block_size if group else 0
    if (weight.kind, weight.block_size) != (expected, block_size):
        reject_weights(
            f"{weight.name} is {tensor_type_name(weight.kind)} in blocks of {weight.block_size},"
            f" not {tensor_type_name(expected)} in blocks of {block_size}"
        )
    if group and group.bits != 16 and not weight.scales.size:
        reject_weights(f"{weight.name} has no scales")
    if not (np.isfinite(weight.scales) & (weight.scales > 0)).all():
        reject_weights(
            f"{weight.name} has a scale that is zero, negative, infinite or not a number"
        )


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return the shape of a tensor; empty for a scalar."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def weights(model: Any, groups: Mapping[GroupName, Group]) -> Iterator[Weight]:
    """Yield the weights of every op that has some, in all signatures of a model."""
    opcodes = [code.builtinCode for code in model.operatorCodes]
    for subgraph in model.subgraphs:
        producers = {int(out): op for op in subgraph.operators for out in op.outputs}
        for op in subgraph.operators:
            if opcodes[op.opcodeIndex] not in WEIGHT_OPS:
                continue
            scope = ";".join(subgraph.tensors[int(out)].name.decode() for out in op.outputs)
            tensor_index = int(op.inputs[WEIGHT_INPUT])
            # Weights with float compute reach the op through a DEQUANTIZE.
            while tensor_index in producers:
                tensor_index = int(producers[tensor_index].inputs[0])
            tensor = subgraph.tensors[tensor_index]
            yield Weight(
                group=group_of(scope, groups),
                name=scope,
                buffer=tensor.buffer,
                shape=shape_of(tensor),
                kind=tensor.type,
                block_size=block_size_of(tensor),
                scales=scales_of(tensor, subgraph, model),
            )


def group_of(scope: str, groups: Mapping[GroupName, Group]) -> GroupName:
    """Return the group whose op this is; an op of no group would stay out of every scheme."""
    if "qkv" in groups and matches(scopes("qkv", groups["qkv"]), scope):
        return "qkv"
    for name, patterns in SCOPES.items():
        if matches(patterns, scope):
            return name
    return reject_weights(f"{scope} belongs to no group of weights")


def matches(patterns: tuple[str, ...], scope: str) -> bool:
    """Return whether any of the patterns is in an op's scope."""
    return any(re.search(pattern, scope) for pattern in patterns)


def block_size_of(tensor: Any) -> int:
    """Return how many weights share a scale along a channel; 0 without blocks."""
    details = tensor.quantization.details if tensor.quantization else None
    return int(details.blockSize) if isinstance(details, schema.BlockwiseQuantizationT) else 0


def scales_of(tensor: Any, subgraph: Any, model: Any) -> np.ndarray:
    """Return the scales of a tensor: its own, or those of the float16 tensor that its blocks name."""
    quantization = tensor.quantization
    if quantization is None:
        return np.empty(0, np.float32)
    if isinstance(quantization.details, schema.BlockwiseQuantizationT):
        scales = subgraph.tensors[quantization.details.scales]
        data = model.buffers[scales.buffer].data
        return np.frombuffer(bytes(data), dtype=np.float16)
    return np.asarray([] if quantization.scale is None else quantization.scale, dtype=np.float32)


def tensor_type_name(kind: int) -> str:
    """Return the schema's name of a tensor type, such as INT8."""
    return next(str(name) for name, value in vars(schema.TensorType).items() if value == kind)


def reject_weights(why: str) -> NoReturn:
    """Raise the error of a file that is not stored as its scheme says."""
    raise StepError(
        StepErrorCode.QUANTIZATION,
        "The quantized file is not what its scheme says",
        why,
        "The pinned quantizer cannot make this scheme from this checkpoint; try another one.",
    )
