"""Move scale between the layers of a float export, so that quantizing it loses less.

One strong input of a matrix makes the one scale that a token's activations share coarse for all other
inputs. Where part of its strength moves into the matrix, both round better: the producer of the input is
divided by a factor for each channel, and the columns that read it are multiplied by the same
(SmoothQuant, arXiv 2211.10438; docs/concepts/quantization.md has the search for how much). The producers are the norms
before attention and before the feed-forward block; ``up``, whose outputs ``down`` reads; and the rows of
``qkv`` that make values, which attention mixes and ``output`` reads.

Factors are powers of two, so that every float keeps its digits: an equalized export computes what the
export computes, to the bit.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from gemma3build.gemma.graph import DOWN, GATE_UP, OUTPUT, QKV

ATTENTION_NORM, FEED_FORWARD_NORM, GATE, UP = "attention norm", "feed-forward norm", "gate", "up"
Place: TypeAlias = tuple[int, str]  # layer and role


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where scale can move.

    Attributes:
        inputs: the kind of input, as ``gemma.graph`` names it.
        share: how much of its strength moves, 0 to 1.
        maker: the role of the constant that makes its channels, one row each; of ``qkv``, the rows
            of values.
        readers: the roles of the matrices that read it, one column a channel.
    """

    inputs: str
    share: float
    maker: str
    readers: tuple[str, ...]


SITES = (
    Site(inputs=QKV, share=0.3, maker=ATTENTION_NORM, readers=(QKV,)),
    Site(inputs=GATE_UP, share=0.3, maker=FEED_FORWARD_NORM, readers=(GATE, UP)),
    Site(inputs=DOWN, share=0.3, maker=UP, readers=(DOWN,)),
    Site(inputs=OUTPUT, share=0.3, maker=QKV, readers=(OUTPUT,)),
)
# A factor is at most 2 to this, either way: a silent input must not blow up its weights.
LARGEST = 6
BLOCK = re.compile(r"DecoderBlock_(\d+)/")
NORMS = {"RMSNorm_pre_atten_norm": ATTENTION_NORM, "RMSNorm_pre_ff_norm": FEED_FORWARD_NORM}
MATRICES = {"Linear_qkv_projection": QKV, "Linear_output_projection": OUTPUT, "Linear_w2": DOWN}
CONSTANT = 1  # the input of a norm and of a fully connected op that is its constant


def equalize(
    source: Path, target: Path, strengths: Mapping[str, np.ndarray], head_dim: int
) -> dict[str, np.ndarray]:
    """Write an equalized copy of a float export, and return how strong its inputs are.

    A layer whose constants other ops use too stays as it is.

    Args:
        source: the export.
        target: where the copy goes.
        strengths: by kind of input, base-2 logarithms of mean squares, whole numbers [layers, inputs].
        head_dim: channels of an attention head.

    Returns:
        The strengths in the copy, int32 of the same shapes.
    """
    shutil.copyfile(source, target)
    # Mapped, not read: only the pages that change come into memory, for a model of any size.
    content = np.memmap(target, np.uint8, "r+")
    model = schema.Model.GetRootAs(content)
    buffers = own_buffers(model)
    moved = {kind: values.astype(np.int32) for kind, values in strengths.items()}
    for site in SITES:
        for layer, inputs in enumerate(moved[site.inputs]):
            places = [(layer, role) for role in (site.maker, *site.readers)]
            if not buffers.keys() >= set(places):
                continue
            maker, *readers = (floats(model, content, buffers[place]) for place in places)
            if site.inputs == OUTPUT:
                rows = value_rows(maker.reshape(-1, moved[QKV].shape[1]), len(inputs))
                made, read = head_exponents(inputs, len(rows) // head_dim, head_dim, site.share)
            else:
                made = read = moved_exponents(inputs, site.share)
                rows = maker.reshape(len(made), -1)
            rows /= np.ldexp(np.float32(1), made)[:, None]
            for reader in readers:
                columns = reader.reshape(-1, len(read))
                columns *= np.ldexp(np.float32(1), read)
            moved[site.inputs][layer] -= 2 * read  # of a square
    content.flush()
    return moved


def value_rows(qkv: np.ndarray, queries: int) -> np.ndarray:
    """Return the rows that make values: the last of queries, keys and as many values."""
    return qkv[-((len(qkv) - queries) // 2) :]


def head_exponents(
    strengths: np.ndarray, groups: int, head_dim: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the base-2 logarithms of the factors of values, and of what ``output`` reads.

    The heads of a group read the same values, so that they share factors, by the (upper) median of
    their strengths.
    """
    heads = strengths.reshape(groups, -1, head_dim)
    middle = np.sort(heads, axis=1)[:, heads.shape[1] // 2]
    made = moved_exponents(middle.reshape(-1), share)
    read = np.broadcast_to(made.reshape(groups, 1, head_dim), heads.shape)
    return made, read.reshape(-1)


def moved_exponents(strengths: np.ndarray, share: float) -> np.ndarray:
    """Return the base-2 logarithm of each input's factor: positive for strong ones."""
    median = np.sort(strengths)[len(strengths) // 2]
    # Half, because strengths are of squares.
    wanted = np.rint((strengths - median) * (share / 2))
    exponents: np.ndarray = np.clip(wanted, -LARGEST, LARGEST).astype(np.int32)
    return exponents


def own_buffers(model: schema.Model) -> dict[Place, int]:
    """Return the buffers of the constants that sites name, where no op of another place uses them."""
    places: dict[int, set[Place | None]] = defaultdict(set)
    for graph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for place, buffers in uses(model, graph):
            for buffer in buffers:
                places[buffer].add(place)
    return {
        place: buffer
        for buffer, (place, *others) in places.items()
        if place is not None and not others
    }


def uses(model: schema.Model, graph: schema.SubGraph) -> Iterator[tuple[Place | None, set[int]]]:
    """Yield each op's place, None for one that no site names, with the buffers that it reads."""
    ops = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    kinds = [model.OperatorCodes(op.OpcodeIndex()).BuiltinCode() for op in ops]
    activated = {
        op.Inputs(0)
        for op, kind in zip(ops, kinds, strict=True)
        if kind == schema.BuiltinOperator.GELU
    }
    for op, kind in zip(ops, kinds, strict=True):
        tensors = [op.Inputs(index) for index in range(op.InputsLength())]
        constants = {graph.Tensors(tensor).Buffer() for tensor in tensors if tensor >= 0} - {0}
        name = graph.Tensors(op.Outputs(0)).Name().decode() if op.OutputsLength() else ""
        role = role_of(
            kind, name, is_activated=op.OutputsLength() > 0 and op.Outputs(0) in activated
        )
        block = BLOCK.search(name)
        if role is None or block is None:
            yield None, constants
            continue
        constant = graph.Tensors(tensors[CONSTANT]).Buffer()
        yield (int(block[1]), role), {constant}
        yield None, constants - {constant}


def role_of(kind: int, name: str, *, is_activated: bool) -> str | None:
    """Return the role of an op's constant; None where no site names it."""
    if kind == schema.BuiltinOperator.STABLEHLO_COMPOSITE:
        return find(NORMS, name)
    if kind != schema.BuiltinOperator.FULLY_CONNECTED:
        return None
    if re.search("Linear_w[13]", name):  # both have either name where the converter merged them
        return GATE if is_activated else UP
    return find(MATRICES, name)


def find(roles: Mapping[str, str], name: str) -> str | None:
    """Return the role of the module whose name is in ``name``, if any is."""
    return next((role for module, role in roles.items() if module in name), None)


def floats(model: schema.Model, content: np.ndarray, index: int) -> np.ndarray:
    """Return a buffer as float32, writable."""
    buffer = model.Buffers(index)
    if buffer.Size():  # beyond the flatbuffer, where that would be 2 GiB or more
        data = content[buffer.Offset() : buffer.Offset() + buffer.Size()]
    else:
        data = buffer.DataAsNumpy()
    return data.view(np.float32)
