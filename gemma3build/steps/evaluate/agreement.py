"""How far the next-token distributions of an artifact are from those of its checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemma3build.gemma.prompts import Reference
from gemma3build.schema.evaluation import Agreement, Check
from gemma3build.schema.scheme import Limits
from gemma3build.steps.evaluate.interpreter import TfliteModel, log_softmax

BIGGEST = 1e9  # nats: stands for what is infinite or not a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """One prompt, position by position; each array is float64, ``[scored]``.

    Attributes:
        same: whether both put the same token first.
        kl: divergence, in nats.
        nll: of the text's next token, by the artifact, in nats.
        reference_nll: the same by the checkpoint.
    """

    same: np.ndarray
    kl: np.ndarray
    nll: np.ndarray
    reference_nll: np.ndarray


def measure(
    model: TfliteModel, reference: Reference, path: Path
) -> Iterator[tuple[str, Distances]]:
    """Yield the name and the distances of each prompt; the prompts use all prefill signatures in turn."""
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    first = 0
    for number, prompt in enumerate(reference.prompts):
        length = model.prefill_lengths[number % len(model.prefill_lengths)]
        logits = model.score(prompt.tokens[:-1], prompt.scored, length)
        expected = rows[first : first + prompt.scored]
        first += prompt.scored
        yield prompt.name, distances(logits, expected, prompt.tokens[-prompt.scored :])


def distances(logits: np.ndarray, expected: np.ndarray, targets: tuple[int, ...]) -> Distances:
    """Compare the logits of the artifact with those of the checkpoint."""
    ours, theirs = log_softmax(logits), log_softmax(expected)
    rows = np.arange(len(targets))
    return Distances(
        same=(logits.argmax(axis=-1) == expected.argmax(axis=-1)).astype(np.float64),
        kl=(np.exp(theirs) * (theirs - ours)).sum(axis=-1),
        nll=-ours[rows, targets],
        reference_nll=-theirs[rows, targets],
    )


def summarize(parts: list[Distances]) -> Agreement:
    """Return the means over all positions of some prompts.

    JSON has no form for a logit that is not a number, and an artifact that gives one agrees with
    nothing: it counts as very far.
    """

    def joined(name: str) -> np.ndarray:
        values = np.concatenate([getattr(part, name) for part in parts])
        finite: np.ndarray = np.nan_to_num(values, nan=BIGGEST, posinf=BIGGEST, neginf=-BIGGEST)
        return finite

    nll, reference_nll = joined("nll"), joined("reference_nll")
    return Agreement(
        positions=len(nll),
        top1=float(joined("same").mean()),
        kl=max(0.0, float(joined("kl").mean())),  # rounding can make it -1e-17
        nll=float(nll.mean()),
        reference_nll=float(reference_nll.mean()),
        deviation=float(np.abs(nll - reference_nll).max()),
    )


def check_limits(agreement: Agreement, limits: Limits) -> Iterator[Check]:
    """Yield a check for each limit."""

    def check(name: str, value: float, limit: float, *, least: bool = False) -> Check:
        passed = value >= limit if least else value <= limit
        allowed = f"{'≥' if least else '≤'} {limit:g}"
        return Check(name=name, measured=f"{value:.6g}", allowed=allowed, passed=passed)

    yield check("top-1 agreement", agreement.top1, limits.top1, least=True)
    yield check("KL divergence", agreement.kl, limits.kl)
    yield check("NLL increase", agreement.nll - agreement.reference_nll, limits.nll_increase)
    if limits.deviation is not None:
        yield check("largest log-probability difference", agreement.deviation, limits.deviation)
