"""How the figures of a release were measured: with what, on which machine, and whether two releases differ."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gemma3build.report.rendering import counted
from gemma3build.schema.evaluation import (
    Evaluation,
    Gate,
    Piqa,
    SchemeEvaluation,
    Speed,
    flag,
    is_quick_look,
    questions,
)
from gemma3build.util.machine import Machine
from gemma3build.util.text import gibibytes

MEASUREMENTS = PIQA, SPEED, GATE = "PIQA", "Speed and memory", "Quality gate"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The conditions of a measurement.

    Attributes:
        what: one of ``MEASUREMENTS``.
        how: the settings.
        machine: in words.
        versions: of the packages that measured.
    """

    what: str
    how: str
    machine: str
    versions: str


@dataclass(frozen=True, slots=True)
class SharedMeasurement:
    """A measurement and the schemes that share it; none are named where all do."""

    measurement: Measurement
    schemes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DifferingCondition:
    """Figures that two releases measured differently.

    Attributes:
        first: how the first release measured them.
        second: how the second did.
        schemes: whose figures they are.
    """

    first: Measurement
    second: Measurement
    schemes: tuple[str, ...]


def measurements(item: SchemeEvaluation, reference: str) -> dict[str, Measurement]:
    """Return how the figures of a scheme were measured, by ``MEASUREMENTS``.

    Args:
        item: the scheme.
        reference: what the gate compared its files with.
    """
    found = {GATE: _measurement(GATE, f"compared with the checkpoint in {reference}", item.gate)}
    if (piqa := item.piqa) is not None:
        how = f"{questions(piqa)} questions"
        if piqa.own:
            how = f"{flag(piqa)}, not PIQA's: not a result"
        elif is_quick_look(piqa):
            how += ": a quick look, not a result"
        found[PIQA] = _measurement(PIQA, how, piqa)
    if (speed := item.speed) is not None:
        how = (
            f"prefill of {speed.prefill_tokens:,} tokens, decode of"
            f" {speed.decode_tokens:,}, {counted(speed.threads, 'thread')};"
            f" median of {counted(speed.runs, 'run')}, each in a new process"
        )
        found[SPEED] = _measurement(SPEED, how, speed)
    return found


def shared_measurements(evaluation: Evaluation) -> tuple[SharedMeasurement, ...]:
    """Return how everything was measured, each way once, in the order of ``MEASUREMENTS``."""
    schemes: dict[Measurement, list[str]] = {}
    for what in MEASUREMENTS:
        for item in evaluation.schemes:
            found = measurements(item, evaluation.reference).get(what)
            if found is not None:
                schemes.setdefault(found, []).append(item.scheme)
    ways = [measurement.what for measurement in schemes]
    return tuple(
        SharedMeasurement(key, tuple(names) if ways.count(key.what) > 1 else ())
        for key, names in schemes.items()
    )


def differing_conditions(first: Evaluation, second: Evaluation) -> tuple[DifferingCondition, ...]:
    """Return what both measured, but on another machine, with other packages or other settings."""
    found: dict[tuple[Measurement, Measurement], list[str]] = {}
    others = {item.scheme: _conditions(item, second.reference) for item in second.schemes}
    for what in MEASUREMENTS:
        for item in first.schemes:
            ours = _conditions(item, first.reference).get(what)
            theirs = others.get(item.scheme, {}).get(what)
            if ours and theirs and ours != theirs:
                found.setdefault((ours, theirs), []).append(item.scheme)
    return tuple(DifferingCondition(*pair, tuple(schemes)) for pair, schemes in found.items())


def _conditions(item: SchemeEvaluation, reference: str) -> dict[str, Measurement]:
    """Return how the figures of a scheme were measured, with the digest of its questions."""
    found = measurements(item, reference)
    if item.piqa is not None:
        how = f"{found[PIQA].how}, SHA-256 {item.piqa.data[:16]}"
        found[PIQA] = replace(found[PIQA], how=how)
    return found


def _measurement(what: str, how: str, figures: Piqa | Speed | Gate) -> Measurement:
    return Measurement(what, how, _machine(figures.machine), _versions(figures.runtime.items()))


def _machine(found: Machine) -> str:
    memory = f"{gibibytes(found.memory)} of memory"
    return f"{found.cpu}, {counted(found.cores, 'core')}, {memory}"


def _versions(runtime: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{package} {version}" for package, version in sorted(runtime))
