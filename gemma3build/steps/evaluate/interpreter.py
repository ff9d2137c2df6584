"""Runs a ``.tflite`` through its signatures, as an app does."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from gemma3build.gemma.graph import CACHE, HIDDEN
from gemma3build.util.machine import cores

DECODE = "decode"
PREFILL = "prefill"


class TfliteModel:
    """A model with a key-value cache, which starts empty.

    Attributes:
        cache_length: positions that the cache holds.
        prefill_lengths: tokens that each prefill signature takes, ascending.
    """

    def __init__(self, path: Path) -> None:
        """Load the file; all cores compute."""
        interpreter = Interpreter(model_path=str(path), num_threads=cores())
        names = interpreter.get_signature_list()
        self._decode = interpreter.get_signature_runner(DECODE)
        runners = [interpreter.get_signature_runner(name) for name in names if PREFILL in name]
        self._prefill = {
            int(runner.get_input_details()["tokens"]["shape"][1]): runner for runner in runners
        }
        self._inputs = self._decode.get_input_details()
        self.prefill_lengths = tuple(sorted(self._prefill))
        self.cache_length = int(self._inputs[f"{CACHE}_k_0"]["shape"][2])
        self.reset()

    def reset(self) -> None:
        """Empty the cache."""
        self._state = {
            name: np.zeros(detail["shape"], detail["dtype"])
            for name, detail in self._inputs.items()
            if name.startswith(CACHE)
        }

    def prefill(self, tokens: Sequence[int], length: int) -> int:
        """Put tokens into the empty cache by the signature that takes ``length`` at a time.

        The last piece is padded. A piece that would reach beyond the cache goes token by token.

        Returns:
            how many tokens the signature took; ``feed`` puts in the rest.
        """
        runner = self._prefill[length]
        start = 0
        while start < len(tokens) and start + length <= self.cache_length:
            piece = list(tokens[start : start + length])
            padded = np.array([piece + [0] * (length - len(piece))], np.int32)
            positions = np.arange(start, start + length, dtype=np.int32)
            self._state = self._run(runner, padded, positions)
            start += len(piece)
        return start

    def feed(self, token: int, position: int) -> np.ndarray:
        """Put one token into the cache."""
        tokens, positions = np.array([[token]], np.int32), np.array([position], np.int32)
        state = self._run(self._decode, tokens, positions)
        logits: np.ndarray = state.pop("logits").reshape(-1)
        self._state = state
        return logits

    def score(self, tokens: Sequence[int], scored: int, length: int) -> np.ndarray:
        """Return the logits after each of the last ``scored`` tokens, from an empty cache.

        Args:
            tokens: the prompt.
            scored: how many of its last tokens go through the decode signature.
            length: the prefill signature that takes the tokens before them.

        Returns:
            float32, ``[scored, vocabulary]``.
        """
        self.reset()
        first = len(tokens) - scored
        start = self.prefill(tokens[:first], length)
        rows = [self.feed(tokens[position], position) for position in range(start, len(tokens))]
        return np.stack(rows[-scored:])

    def generate(self, tokens: Sequence[int], count: int, length: int) -> Iterator[np.ndarray]:
        """Yield the logits of each next token while the likeliest one is taken, ``count`` times."""
        self.reset()
        start = self.prefill(tokens[:-1], length)
        for position in range(start, len(tokens) - 1):
            self.feed(tokens[position], position)
        token = tokens[-1]
        for position in range(len(tokens) - 1, len(tokens) - 1 + count):
            logits = self.feed(token, position)
            yield logits
            token = int(logits.argmax())

    def _run(
        self, runner: object, tokens: np.ndarray, positions: np.ndarray
    ) -> dict[str, np.ndarray]:
        inputs = {"tokens": tokens, "input_pos": positions, **self._state}
        if "mask" in self._inputs:
            # Each position sees itself and what came before; the graph applies the window itself.
            seen = np.arange(self.cache_length) <= positions[:, None]
            inputs["mask"] = np.where(seen, 0, HIDDEN).astype(np.float32)[None, None]
        outputs: dict[str, np.ndarray] = runner(**inputs)  # type: ignore[operator]
        return outputs


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities along the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalized: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized
