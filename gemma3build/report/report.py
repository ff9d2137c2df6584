"""The page of a release: ``report.html``, one file that loads nothing from a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gemma3build.release.checksums import CHECKSUMS
from gemma3build.release.directory import evaluation_text
from gemma3build.report.charts import BarChart, Plot, bar_chart, parity_plot, quality_plot
from gemma3build.report.measurement import SharedMeasurement, shared_measurements
from gemma3build.report.rendering import environment, notice
from gemma3build.schema.evaluation import (
    EVALUATION,
    REPORT,
    Evaluation,
    Sample,
    SchemeEvaluation,
    flag,
)
from gemma3build.schema.manifest import MANIFEST, Manifest
from gemma3build.util.text import MEGABYTE, pieces, shared_start

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class Texts:
    """The samples of one prompt by scheme, for the same text of the checkpoint."""

    name: str
    prompt: str
    source: str
    samples: tuple[tuple[str, Sample], ...]

    @property
    def same(self) -> int:
        """For how many schemes the ``.tflite`` and the ``.task`` give the checkpoint's text."""
        return sum(s.source == s.artifact == s.bundle for _, s in self.samples)


@dataclass(frozen=True)
class Page:
    """What the templates ask of a manifest and an evaluation."""

    manifest: Manifest
    evaluation: Evaluation

    @property
    def schemes(self) -> tuple[SchemeEvaluation, ...]:
        """The schemes in the order of the build."""
        return self.evaluation.schemes

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the schemes that fail the gate."""
        return tuple(item.scheme for item in self.schemes if not item.gate.passed)

    @property
    def unmeasured(self) -> bool:
        """Whether a figure of the first table is missing."""
        return any(item.piqa is None or item.speed is None for item in self.schemes)

    @property
    def flags(self) -> str:
        """Which schemes have a figure that is not a PIQA result, and why."""
        found: dict[str, list[str]] = {}
        for item in self.schemes:
            if why := flag(item.piqa):
                found.setdefault(why, []).append(item.scheme)
        return "; ".join(f"{why} ({', '.join(names)})" for why, names in found.items())

    @property
    def measured(self) -> tuple[SharedMeasurement, ...]:
        """How everything was measured."""
        return shared_measurements(self.evaluation)

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
        """The samples by prompt; the checkpoint's text appears once."""
        found: dict[tuple[str, str, str], list[tuple[str, Sample]]] = {}
        for item in self.schemes:
            for sample in item.gate.samples:
                key = sample.name, sample.prompt, sample.source
                found.setdefault(key, []).append((item.scheme, sample))
        return tuple(Texts(*key, tuple(samples)) for key, samples in found.items())

    @cached_property
    def quality(self) -> Plot | None:
        """Size against PIQA accuracy; None where no scheme has one."""
        if not any(item.piqa for item in self.schemes):
            return None
        note = "Up and left is better. Error bars show one standard error."
        note += f" Not a PIQA result: {self.flags}." if self.flags else ""
        return quality_plot(note, self.schemes)

    @cached_property
    def speed(self) -> tuple[BarChart, ...]:
        """Charts of speed and memory; none where no scheme was measured."""
        names = [item.scheme for item in self.schemes]
        speeds = [item.speed for item in self.schemes]
        if not any(speeds):
            return ()
        prefill = [s.prefill if s else None for s in speeds]
        decode = [s.decode if s else None for s in speeds]
        memory = [s.peak_memory / MEGABYTE if s else None for s in speeds]
        return (
            bar_chart("CPU prefill, tokens/s", "Higher is better.", names, prefill),
            bar_chart("CPU decode, tokens/s", "Higher is better.", names, decode),
            bar_chart("Peak memory, MB", "Lower is better.", names, memory),
        )

    @property
    def parity(self) -> Plot:
        """The divergence on each prompt; there is at least one."""
        return parity_plot(self.schemes)


def render_report(manifest: Manifest, evaluation: Evaluation) -> bytes:
    """Return ``report.html`` in UTF-8: the same bytes for the same arguments.

    Everything in the arguments is untrusted text, and escaped.

    Args:
        manifest: what was built from what.
        evaluation: what was measured; PIQA and speed may be missing.
    """
    template = environment(pieces=pieces, shared_start=shared_start, stored=stored).get_template(
        TEMPLATE
    )
    text = template.render(
        page=Page(manifest, evaluation),
        rows=[(item, "") for item in evaluation.schemes],
        manifest=manifest,
        checkpoint=manifest.checkpoint,
        evaluation=evaluation,
        files={"manifest": MANIFEST, "evaluation": EVALUATION, "checksums": CHECKSUMS},
        notice=notice(),
    )
    return text.encode()


def stored(weights: Mapping[str, Any]) -> str:
    """Return how each group of weights is stored, in words."""

    def one(found: Any) -> str:
        if not isinstance(found, Mapping):
            return str(found)
        block = found.get("block_size")
        return f"{found.get('type', '?')}".lower() + (f" in blocks of {block}" if block else "")

    return "; ".join(f"{group.replace('_', ' ')} {one(weights[group])}" for group in weights)


def measured_files(manifest: Manifest, evaluation: Evaluation) -> dict[str, bytes]:
    """Return the files that depend on the machine, by name; no checksum covers them.

    The evaluation comes last: if only the report was written, the old figures are still there.
    """
    return {REPORT: render_report(manifest, evaluation), EVALUATION: evaluation_text(evaluation)}
