"""The page of a release: ``report.html``, one file that needs no network, script or font.

Matplotlib is imported when a page is made, and not before: a build with nothing to do should start as
fast as it can.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gemma3build.release.checksums import CHECKSUMS
from gemma3build.release.directory import evaluation_text
from gemma3build.report.page import counted, environment, notice
from gemma3build.schema.evaluation import (
    EVALUATION,
    REPORT,
    Evaluation,
    Gate,
    Piqa,
    Sample,
    SchemeEvaluation,
    Speed,
    flag,
    is_quick_look,
    questions,
)
from gemma3build.schema.manifest import MANIFEST, Manifest
from gemma3build.util.machine import Machine
from gemma3build.util.text import MEGABYTE, gibibytes, pieces, shared_start, significant

if TYPE_CHECKING:
    from gemma3build.report.charts import Chart

TEMPLATE = "report.html.j2"
MEASUREMENTS = PIQA, SPEED, GATE = "PIQA", "Speed and memory", "Gate"


@dataclass(frozen=True, slots=True, order=True)
class Measurement:
    """How, on what and with what something was measured.

    Attributes:
        what: such as ``PIQA``.
        how: the conditions.
        machine: in words.
        versions: of what measured.
    """

    what: str
    how: str
    machine: str
    versions: str


@dataclass(frozen=True, slots=True)
class SharedMeasurement:
    """A measurement and the schemes that it goes for; none named where it goes for all."""

    measurement: Measurement
    schemes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """The samples of one prompt that share what the checkpoint says to it, by scheme."""

    name: str
    prompt: str
    source: str
    samples: tuple[tuple[str, Sample], ...]

    @property
    def same(self) -> int:
        """For how many schemes the ``.tflite`` and the ``.task`` say what the checkpoint says."""
        return sum(s.source == s.artifact == s.bundle for _, s in self.samples)


@dataclass(frozen=True)
class Page:
    """What the template asks of a manifest and an evaluation."""

    manifest: Manifest
    evaluation: Evaluation

    @property
    def schemes(self) -> tuple[SchemeEvaluation, ...]:
        """The schemes in the order of the build."""
        return self.evaluation.schemes

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the schemes that the gate does not let through."""
        return tuple(item.scheme for item in self.schemes if not item.gate.passed)

    @property
    def unmeasured(self) -> bool:
        """Whether a figure of the first table is missing."""
        return any(item.piqa is None or item.speed is None for item in self.schemes)

    @property
    def flags(self) -> str:
        """Which schemes have a figure that is no result on PIQA, and why."""
        found: dict[str, list[str]] = {}
        for item in self.schemes:
            if why := flag(item.piqa):
                found.setdefault(why, []).append(item.scheme)
        return "; ".join(f"{why} ({', '.join(names)})" for why, names in found.items())

    @cached_property
    def measured(self) -> tuple[SharedMeasurement, ...]:
        """How everything was measured, each way once, in the order of the page."""
        schemes: dict[Measurement, list[str]] = {}
        for what in MEASUREMENTS:
            for item in self.schemes:
                found = measurements(item, self.evaluation.reference).get(what)
                if found is not None:
                    schemes.setdefault(found, []).append(item.scheme)
        ways = [measurement.what for measurement in schemes]
        return tuple(
            SharedMeasurement(key, tuple(names) if ways.count(key.what) > 1 else ())
            for key, names in schemes.items()
        )

    @property
    def piqa_data(self) -> tuple[str, ...]:
        """Digests of the questions that were asked."""
        return tuple(dict.fromkeys(item.piqa.data for item in self.schemes if item.piqa))

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Names of the prompts of the gate."""
        return tuple(dict.fromkeys(p.name for item in self.schemes for p in item.gate.prompts))

    def kl(self, item: SchemeEvaluation, prompt: str) -> float | None:
        """Return a scheme's divergence on a prompt, in nats per token, if it was measured."""
        found = (p.agreement.kl for p in item.gate.prompts if p.name == prompt)
        return next(found, None)

    @cached_property
    def texts(self) -> tuple[Texts, ...]:
        """The samples by prompt; what the checkpoint says stands once."""
        found: dict[tuple[str, str, str], list[tuple[str, Sample]]] = {}
        for item in self.schemes:
            for sample in item.gate.samples:
                key = sample.name, sample.prompt, sample.source
                found.setdefault(key, []).append((item.scheme, sample))
        return tuple(Texts(*key, tuple(samples)) for key, samples in found.items())

    @cached_property
    def charts(self) -> "tuple[Chart, ...]":
        """Charts of what ``gemma3build evaluate`` measured."""
        from gemma3build.report.charts import bars_chart, quality_chart

        names = [item.scheme for item in self.schemes]
        speeds = [item.speed for item in self.schemes]
        note = "Up and to the left is better. Bars are one standard error."
        note += f" Not a result on PIQA: {self.flags}." if self.flags else ""
        found = []
        if any(item.piqa for item in self.schemes):
            found.append(quality_chart(note, self.schemes))
        if any(speeds):
            memory = [s.peak_memory / MEGABYTE if s else None for s in speeds]
            prefill = [s.prefill if s else None for s in speeds]
            decode = [s.decode if s else None for s in speeds]
            found += [
                bars_chart("CPU prefill, tokens/s", "Longer is better.", names, prefill),
                bars_chart("CPU decode, tokens/s", "Longer is better.", names, decode),
                bars_chart("Peak memory, MB", "Shorter is better.", names, memory),
            ]
        return tuple(found)

    @cached_property
    def parity(self) -> "Chart":
        """The chart of the divergence on each prompt."""
        from gemma3build.report.charts import parity_chart

        return parity_chart(self.schemes)


def render(manifest: Manifest, evaluation: Evaluation) -> bytes:
    """Return ``report.html`` in UTF-8: the same bytes for the same arguments.

    Everything in the arguments is taken for text that anybody may have written, and escaped.

    Args:
        manifest: what was built from what.
        evaluation: what was measured; PIQA and speed may be missing.
    """
    template = environment(
        pieces=pieces, shared_start=shared_start, significant=significant, stored=stored
    ).get_template(TEMPLATE)
    text = template.render(
        page=Page(manifest, evaluation),
        manifest=manifest,
        checkpoint=manifest.checkpoint,
        evaluation=evaluation,
        files={"manifest": MANIFEST, "evaluation": EVALUATION, "checksums": CHECKSUMS},
        notice=notice(),
    )
    return text.encode()


def measurements(item: SchemeEvaluation, reference: str) -> dict[str, Measurement]:
    """Return how the figures of a scheme were measured, by what they are; ``MEASUREMENTS`` has all.

    Args:
        item: the scheme.
        reference: what the gate compared its files with.
    """
    found = {GATE: measurement(GATE, f"against the checkpoint in {reference}", item.gate)}
    if (piqa := item.piqa) is not None:
        how = f"{questions(piqa)} questions"
        if piqa.own:
            how = f"{flag(piqa)}, not PIQA's: not a result"
        elif is_quick_look(piqa):
            how += ": a quick look, not a result"
        found[PIQA] = measurement(PIQA, how, piqa)
    if (speed := item.speed) is not None:
        how = (
            f"prefill of {speed.prefill_tokens:,} tokens, decode of"
            f" {speed.decode_tokens:,}, {counted(speed.threads, 'thread')};"
            f" medians of {counted(speed.runs, 'run')}, each in a process of its own"
        )
        found[SPEED] = measurement(SPEED, how, speed)
    return found


def measurement(what: str, how: str, figures: Piqa | Speed | Gate) -> Measurement:
    """Return the conditions of figures that say where and with what they were measured."""
    return Measurement(what, how, machine(figures.machine), runtime(figures.runtime.items()))


def machine(found: Machine) -> str:
    """Return a machine in words."""
    memory = f"{gibibytes(found.memory)} of memory"
    return f"{found.cpu}, {counted(found.cores, 'core')}, {memory}"


def runtime(versions: Iterable[tuple[str, str]]) -> str:
    """Return versions by package in one line."""
    return ", ".join(f"{package} {version}" for package, version in sorted(versions))


def stored(weights: Mapping[str, Any]) -> str:
    """Return how each group of weights is stored, in words."""

    def one(found: Any) -> str:
        if not isinstance(found, Mapping):
            return str(found)
        block = found.get("block_size")
        return f"{found.get('type', '?')}".lower() + (f" in blocks of {block}" if block else "")

    return "; ".join(f"{group.replace('_', ' ')} {one(weights[group])}" for group in weights)


@dataclass(frozen=True, slots=True)
class DifferingCondition:
    """Figures that both releases have, and that were measured differently.

    Attributes:
        first: how, in the first release.
        second: how, in the second.
        schemes: for which schemes.
    """

    first: Measurement
    second: Measurement
    schemes: tuple[str, ...]


def differing_conditions(first: Evaluation, second: Evaluation) -> tuple[DifferingCondition, ...]:
    """Return what was measured differently: on another machine, by another runtime, or otherwise."""
    found: dict[tuple[Measurement, Measurement], list[str]] = {}
    others = {item.scheme: conditions(item, second.reference) for item in second.schemes}
    for what in MEASUREMENTS:
        for item in first.schemes:
            ours = conditions(item, first.reference).get(what)
            theirs = others.get(item.scheme, {}).get(what)
            if ours and theirs and ours != theirs:
                found.setdefault((ours, theirs), []).append(item.scheme)
    return tuple(DifferingCondition(*pair, tuple(schemes)) for pair, schemes in found.items())


def conditions(item: SchemeEvaluation, reference: str) -> dict[str, Measurement]:
    """Return how the figures of a scheme were measured, and by which questions."""
    found = measurements(item, reference)
    if item.piqa is not None:
        how = f"{found[PIQA].how}, SHA-256 {item.piqa.data[:16]}"
        found[PIQA] = dataclasses.replace(found[PIQA], how=how)
    return found


def measured_files(manifest: Manifest, evaluation: Evaluation) -> dict[str, bytes]:
    """Return the files that depend on the machine, by name; no checksum covers them.

    The figures come last: where only the report could be written, they are still those of before.
    """
    return {REPORT: render(manifest, evaluation), EVALUATION: evaluation_text(evaluation)}
