"""A score export: log-likelihoods of many sequences, several in each call."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from gemma3build.gemma.graph import CACHE
from gemma3build.steps.harness import packing
from gemma3build.util.machine import cores

LOGITS = "logits"


class Scorer:
    """The one signature of a score export.

    Attributes:
        length: tokens that a call takes.
    """

    def __init__(self, path: Path) -> None:
        """Load the file; all cores compute; raises ValueError."""
        self._interpreter = Interpreter(model_path=str(path), num_threads=cores())
        inputs, outputs = tensors(self._interpreter)
        self.length = int(inputs["tokens"]["shape"][1])
        if LOGITS not in outputs or outputs[LOGITS]["shape"][1] != self.length:
            raise ValueError(f"{path.name} does not return the logits after each of its tokens")
        self._inputs = {name: int(detail["index"]) for name, detail in inputs.items()}
        self._logits = int(outputs[LOGITS]["index"])
        self._interpreter.allocate_tensors()
        for name, detail in inputs.items():
            if name.startswith(CACHE):
                # Every call writes the whole cache before it reads there.
                empty = np.zeros(detail["shape"], detail["dtype"])
                self._interpreter.set_tensor(self._inputs[name], empty)

    def score(self, requests: Sequence[packing.ScoreRequest]) -> list[packing.Score]:
        """Return the score of each request, in their order."""
        scores: dict[int, packing.Score] = {}
        pending: Future[dict[int, packing.Score]] | None = None
        # While one call computes, the worker reads the scores of the one before.
        with ThreadPoolExecutor(max_workers=1) as worker:
            for call in packing.plan_calls(requests, self.length):
                rows = self.logits(call)
                if pending is not None:
                    scores |= pending.result()
                pending = worker.submit(packing.read_scores, call, rows)
            if pending is not None:
                scores |= pending.result()
        return [scores[index] for index in range(len(requests))]

    def logits(self, call: packing.Call) -> np.ndarray:
        """Return the logits of the call's ``places``, float32, ``[places, vocabulary]``."""
        inputs = {"tokens": call.tokens, "input_pos": call.positions, "mask": call.mask}
        for name, value in inputs.items():
            self._interpreter.set_tensor(self._inputs[name], value)
        self._interpreter.invoke()
        # A signature runner would copy the logits of all places, and the cache: a quarter of a
        # gigabyte a call for Gemma's vocabulary. This is a view; the last line copies rows.
        view = self._interpreter.tensor(self._logits)()
        rows: np.ndarray = view[0, packing.places(call)]
        return rows


def tensors(interpreter: Interpreter) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the details of the inputs and outputs of the one signature, by name.

    The signature's runner does not outlive this: the interpreter would not give a view of a tensor.

    Raises:
        ValueError: there are several signatures.
    """
    names = list(interpreter.get_signature_list())
    if len(names) != 1:
        raise ValueError(f"a score export has one signature, not {', '.join(names) or 'none'}")
    runner = interpreter.get_signature_runner(names[0])
    return runner.get_input_details(), runner.get_output_details()
