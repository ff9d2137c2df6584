"""Quantization schemes as data: what each group of weights becomes."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from gemma3build.util.serialize import Record, decode

GroupName: TypeAlias = Literal["embedding", "attention", "feed_forward", "qkv"]
GROUPS: tuple[GroupName, ...] = ("embedding", "attention", "feed_forward", "qkv")
FLOAT16 = 16  # bits
IMPORTANCE = "importance"
# What may stand in a file name that this project makes.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
BLOCK_SIZES = {"blockwise_32": 32, "blockwise_64": 64, "blockwise_128": 128, "blockwise_256": 256}


class Group(Record):
    """How one group of weights is stored and computed with.

    Attributes:
        bits: 4 or 8 for integers, 16 for float16.
        granularity: what shares a scale: the tensor, an output channel, or a block along a channel.
        algorithm: how scales are chosen: ``importance`` by ``steps.convert.rounding``, others by
            ai-edge-quantizer.
        layers: how many layers, from the first one, this is for; None means all of them.
        compute: ``integer`` quantizes activations at run time, ``float`` expands the weights.
    """

    bits: Literal[4, 8, 16]
    granularity: Literal[
        "tensorwise",
        "channelwise",
        "blockwise_32",
        "blockwise_64",
        "blockwise_128",
        "blockwise_256",
    ] = "channelwise"
    algorithm: Literal["min_max", "importance", "octav", "float_casting"] = "min_max"
    layers: Annotated[int, Meta(ge=1)] | None = None
    compute: Literal["integer", "float"] = "integer"

    def __post_init__(self) -> None:
        """Reject combinations that the quantizer would misread."""
        if (self.bits == FLOAT16) != (self.algorithm == "float_casting"):
            raise ValueError("float_casting is for 16 bits, and 16 bits need float_casting")
        if self.algorithm == IMPORTANCE and (self.bits != 4 or not self.block_size):  # noqa: PLR2004
            raise ValueError("the algorithm importance is for 4 bits in blocks")
        if self.bits == FLOAT16 and self.compute != "float":
            raise ValueError('float16 weights need compute = "float"')

    @property
    def block_size(self) -> int:
        """Weights that share a scale along a channel; 0 where a scale spans the whole of it."""
        return BLOCK_SIZES.get(self.granularity, 0)


class Limits(Record):
    """How far an artifact may be from its checkpoint; ``Agreement`` explains the figures.

    The defaults, for user schemes, let any usable artifact pass and no broken one.

    Attributes:
        top1: least share of equal first tokens, 0 to 1.
        kl: largest mean divergence, in nats per token.
        nll_increase: largest increase of the mean negative log-likelihood, in nats per token.
        deviation: largest difference of a log-probability, in nats; None allows any.
    """

    top1: Annotated[float, Meta(ge=0, le=1)] = 0.5
    kl: Annotated[float, Meta(ge=0)] = 0.7
    nll_increase: float = 0.7
    deviation: Annotated[float, Meta(ge=0)] | None = None


class Scheme(Record):
    """A named recipe; groups that are left out stay in float32.

    Attributes:
        name: what people write, such as ``dynamic_int8``.
        suffix: what stands in file names, such as ``q8``.
        summary: one line for people.
        embedding: the embedding table, which is also the LM head.
        attention: query, key, value and output projections.
        feed_forward: gate, up and down projections.
        qkv: query, key and value projections, if they differ from ``attention``.
        equalize: whether scale moves between layers first; see ``steps.convert.equalize``.
        limits: what the gate allows.
    """

    name: str
    suffix: str
    summary: str
    embedding: Group | None = None
    attention: Group | None = None
    feed_forward: Group | None = None
    qkv: Group | None = None
    equalize: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Reject names that cannot be part of a file name, and groups that contradict themselves."""
        if self.embedding is not None and self.embedding.algorithm == IMPORTANCE:
            raise ValueError("embedding.algorithm: importance is for the matrices of layers")
        for name, group in self.groups.items():
            if group.layers is not None and name != "qkv":
                raise ValueError(f"{name}.layers: only qkv can be of some layers")
        for value in (self.name, self.suffix):
            if not re.fullmatch(NAME, value):
                raise ValueError(
                    f"{value!r} must be of letters, digits, dots, dashes and underscores"
                )

    @property
    def groups(self) -> dict[GroupName, Group]:
        """The groups that are quantized."""
        groups = {name: getattr(self, name) for name in GROUPS}
        return {name: group for name, group in groups.items() if group is not None}

    @property
    def quantized(self) -> bool:
        """Whether any group differs from the float export."""
        return bool(self.groups)

    @property
    def calibrated(self) -> bool:
        """Whether quantizing needs the strengths of the inputs of matrices."""
        weighed = any(group.algorithm == IMPORTANCE for group in self.groups.values())
        return weighed or self.equalize


def decode_groups(value: Mapping[str, Any]) -> dict[GroupName, Group]:
    """Return the groups of a step's parameters, which are JSON values by name.

    Raises:
        DecodeError: naming what is wrong.
    """
    return {name: decode(Group, value[name], name) for name in GROUPS if name in value}
