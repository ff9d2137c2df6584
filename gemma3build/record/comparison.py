"""Whether the figures of two releases were measured alike."""

import dataclasses
from dataclasses import dataclass

from gemma3build.core.evaluation import Evaluation, SchemeEvaluation
from gemma3build.record.report import MEASUREMENTS, PIQA, Measurement, measurements


@dataclass(frozen=True, slots=True)
class Unlike:
    """Figures that both releases have, and that were measured differently.

    Attributes:
        first: how, in the first release.
        second: how, in the second.
        schemes: for which schemes.
    """

    first: Measurement
    second: Measurement
    schemes: tuple[str, ...]


def unlike(first: Evaluation, second: Evaluation) -> tuple[Unlike, ...]:
    """Return what was measured differently: on another machine, by another runtime, or otherwise."""
    found: dict[tuple[Measurement, Measurement], list[str]] = {}
    others = {item.scheme: conditions(item, second.reference) for item in second.schemes}
    for what in MEASUREMENTS:
        for item in first.schemes:
            ours = conditions(item, first.reference).get(what)
            theirs = others.get(item.scheme, {}).get(what)
            if ours and theirs and ours != theirs:
                found.setdefault((ours, theirs), []).append(item.scheme)
    return tuple(Unlike(*pair, tuple(schemes)) for pair, schemes in found.items())


def conditions(item: SchemeEvaluation, reference: str) -> dict[str, Measurement]:
    """Return how the figures of a scheme were measured, and by which questions."""
    found = measurements(item, reference)
    if item.piqa is not None:
        how = f"{found[PIQA].how}, SHA-256 {item.piqa.data[:16]}"
        found[PIQA] = dataclasses.replace(found[PIQA], how=how)
    return found
