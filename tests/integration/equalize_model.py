"""In the convert image: equalize a float export by strengths that differ widely, and run both.

equalize_model.py SOURCE REPORT writes what came of it as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from gemma3build.gemma.graph import DOWN, GATE_UP, OUTPUT, QKV
from gemma3build.steps.convert.equalize import equalize, own_buffers
from gemma3build.steps.evaluate.interpreter import TfliteModel

HEAD_DIM = 64
TOKENS = (2, 17, 5, 99, 3, 41, 77, 12, 8, 64)


def widths(path: Path) -> dict[str, list[int]]:
    """Return layers and inputs of each kind, found by the constants themselves."""
    model = schema.Model.GetRootAs(np.memmap(path, np.uint8, "r"))
    found = own_buffers(model)
    layers = 1 + max(layer for layer, _ in found)

    def size(role: str) -> int:
        return int(model.Buffers(found[0, role]).DataLength()) // 4

    hidden = size("attention norm")
    inner = size("up") // hidden
    return {
        QKV: [layers, hidden],
        GATE_UP: [layers, hidden],
        DOWN: [layers, inner],
        OUTPUT: [layers, size("output") // hidden],
    }


def spread(values: np.ndarray) -> float:
    """Return how far apart inputs are."""
    return float(np.std(values.astype(np.float64)))


def main(source: Path, target: Path) -> None:
    random = np.random.default_rng(1)
    strengths = {
        kind: random.integers(-100, 30, shape).astype(np.int8)
        for kind, shape in widths(source).items()
    }
    equalized = Path(tempfile.mkdtemp(), "equalized.tflite")
    left = equalize(source, equalized, strengths, HEAD_DIM)
    rows = [TfliteModel(path).score(TOKENS, 4, 8) for path in (source, equalized)]
    report = {
        "changed": source.read_bytes() != equalized.read_bytes(),
        "spread": {kind: [spread(strengths[kind]), spread(left[kind])] for kind in left},
        "equal": rows[0].tobytes() == rows[1].tobytes(),
        "finite": bool(np.isfinite(rows[0]).all()),
    }
    target.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
