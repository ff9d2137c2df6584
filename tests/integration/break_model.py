"""In the evaluate image: break a ``.tflite`` in one way that conversions have been broken in.

break_model.py HOW SOURCE TARGET
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

GLOBAL_BASE, LOCAL_BASE = 1e6, 1e4


def zero_scales(model: Any) -> None:
    """Make the scales of one matrix zero."""
    tensor = weights(model)[0]
    if isinstance(tensor.quantization.details, schema.BlockwiseQuantizationT):
        scales = model.subgraphs[0].tensors[tensor.quantization.details.scales]
        buffer = model.buffers[scales.buffer]
        buffer.data = np.zeros_like(buffer.data)
    else:
        tensor.quantization.scale = np.zeros_like(tensor.quantization.scale)


def swap_tensors(model: Any) -> None:
    """Exchange two matrices of equal shape in two layers."""
    first, *others = weights(model)
    second = next(tensor for tensor in others if list(tensor.shape) == list(first.shape))
    buffers = model.buffers
    one, two = buffers[first.buffer], buffers[second.buffer]
    one.data, two.data = two.data, one.data


def swap_rotary_bases(model: Any) -> None:
    """Give local layers the rotary base of global ones, and the other way round."""
    found = {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            values = constant(model, tensor, schema.TensorType.FLOAT32, np.float32)
            if values is None or len(values) < 16 or values[0] != 1:
                continue
            count = len(values)
            for base in (GLOBAL_BASE, LOCAL_BASE):
                if np.allclose(values, base ** (-np.arange(count) / count), rtol=1e-4):
                    found[base] = model.buffers[tensor.buffer]
    one, two = found[GLOBAL_BASE], found[LOCAL_BASE]
    one.data, two.data = two.data, one.data


def widen_window(model: Any) -> None:
    """Let local layers see everything, as a converter does that forgets the window."""
    change_window(model, 1 << 20)


def narrow_window(model: Any) -> None:
    """Let local layers see eight positions."""
    change_window(model, 8)


def change_window(model: Any, window: int) -> None:
    changed = 0
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            values = constant(model, tensor, schema.TensorType.INT32, np.int32)
            if values is not None and values.size == 1 and values[0] in (512, 16):
                model.buffers[tensor.buffer].data = np.frombuffer(
                    np.array([window], np.int32).tobytes(), np.uint8
                )
                changed += 1
    assert changed


def constant(model: Any, tensor: Any, kind: int, dtype: Any) -> np.ndarray | None:
    data = model.buffers[tensor.buffer].data
    if tensor.type != kind or data is None:
        return None
    return np.frombuffer(bytes(data), dtype)


def weights(model: Any) -> list[Any]:
    """Return the feed-forward matrices of the first signature, in the order of layers."""
    subgraph = model.subgraphs[0]
    codes = [code.builtinCode for code in model.operatorCodes]
    found = {}
    for op in subgraph.operators:
        name = subgraph.tensors[int(op.outputs[0])].name.decode()
        if codes[op.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED and re.search(
            r"GatedFeedForward_ff.*Linear_w1", name
        ):
            tensor = subgraph.tensors[int(op.inputs[1])]
            found[tensor.buffer] = tensor
    return list(found.values())


WAYS: dict[str, Callable[[Any], None]] = {
    "zero-scales": zero_scales,
    "swapped-tensors": swap_tensors,
    "swapped-rotary-bases": swap_rotary_bases,
    "no-window": widen_window,
    "narrow-window": narrow_window,
}


def main(how: str, source: Path, target: Path) -> None:
    model = flatbuffer_utils.read_model(str(source))
    WAYS[how](model)
    flatbuffer_utils.write_model(model, str(target))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
