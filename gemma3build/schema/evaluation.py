"""The measurements of a release: ``evaluation.json``, next to the manifest and never part of it.

A manifest is the same for everyone who builds a release. A measurement depends on the machine,
so each one names its machine. Every build writes the gate's figures, and ``gemma3build evaluate`` adds
PIQA and speed.
"""

from collections.abc import Mapping
from typing import Any

from gemma3build.util.files import FileDigest
from gemma3build.util.machine import Machine
from gemma3build.util.serialize import Record

EVALUATION_FORMAT = "gemma3build.evaluation/1"
EVALUATION = "evaluation.json"
REPORT = "report.html"
GATE_FILE, PIQA_FILE, SPEED_FILE = "gate.json", "piqa.json", "speed.json"


class Agreement(Record):
    """How an artifact's next-token distributions compare with those of its checkpoint.

    Attributes:
        positions: number of next-token distributions that were compared.
        top1: share of positions where both put the same token first, 0 to 1.
        kl: mean Kullback-Leibler divergence of the artifact's distribution from the checkpoint's,
            in nats per token.
        nll: mean negative log-likelihood that the artifact gives the text's own next token, in nats.
        reference_nll: the same of the checkpoint.
        deviation: largest difference in the log-probability of one of those tokens, in nats.
    """

    positions: int
    top1: float
    kl: float
    nll: float
    reference_nll: float
    deviation: float


class PromptAgreement(Record):
    """The agreement on one prompt, and how many tokens the prompt has."""

    name: str
    tokens: int
    agreement: Agreement


class Sample(Record):
    """Greedy continuations of one prompt.

    Attributes:
        name: of the prompt.
        prompt: its text, after ``<bos>``.
        source: by the checkpoint, in float32.
        artifact: by the ``.tflite``, through its own signatures.
        bundle: by the ``.task``, in LiteRT-LM.
        stopped: whether the artifact ended it with a stop token.
    """

    name: str
    prompt: str
    source: str
    artifact: str
    bundle: str
    stopped: bool


class Check(Record):
    """One rule of the gate, with the measured and the allowed value.

    Attributes:
        name: for people, such as ``top-1 agreement``.
        measured: the figure, or a sentence.
        allowed: the limit with its direction, such as ``≥ 0.9``.
        passed: whether the figure is within the limit.
    """

    name: str
    measured: str
    allowed: str
    passed: bool


class Gate(Record):
    """The results of the gate for the files of one scheme.

    Attributes:
        checks: every rule that could be checked.
        agreement: over all prompts; None for a model that does not run.
        prompts: for each prompt.
        samples: continuations.
        weights: how each group of weights is stored.
        runtime: versions of what ran the files, by package.
        machine: where.
    """

    checks: tuple[Check, ...]
    agreement: Agreement | None = None
    prompts: tuple[PromptAgreement, ...] = ()
    samples: tuple[Sample, ...] = ()
    weights: Mapping[str, Any]
    runtime: Mapping[str, str]
    machine: Machine

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


class Piqa(Record):
    """Accuracy on PIQA (Bisk et al., 2019, arXiv 1911.11641), as lm-eval measures it.

    Attributes:
        questions: how many were asked, from the start of the split.
        of: how many there are; with fewer asked it is a quick look, not a result.
        acc: share of questions whose right solution is the likelier one, 0 to 1.
        acc_stderr: its standard error.
        acc_norm: the same, with log-likelihoods divided by the length of the solution.
        acc_norm_stderr: its standard error.
        own: whether they are a user's own, and not PIQA's published ones.
        data: SHA-256 of the questions and labels that were asked.
        seconds: wall-clock time.
        runtime: versions of what measured, by package.
        machine: where.
    """

    questions: int
    of: int
    acc: float
    acc_stderr: float
    acc_norm: float
    acc_norm_stderr: float
    own: bool = False
    data: str
    seconds: float
    runtime: Mapping[str, str]
    machine: Machine


class Speed(Record):
    """Speed of a ``.task`` in LiteRT-LM's benchmark on the CPU; medians over runs.

    Attributes:
        prefill: tokens per second.
        decode: tokens per second.
        peak_memory: largest resident set size of a fresh process, in bytes.
        prefill_tokens: length of the prompt.
        decode_tokens: how many were generated.
        runs: how many processes were measured.
        threads: that the runtime used.
        runtime: versions of what ran, by package.
        machine: where.
    """

    prefill: float
    decode: float
    peak_memory: int
    prefill_tokens: int
    decode_tokens: int
    runs: int
    threads: int
    runtime: Mapping[str, str]
    machine: Machine


class SchemeEvaluation(Record):
    """Everything measured about the files of one scheme.

    Attributes:
        scheme: its name.
        model: the ``.tflite``.
        bundle: the ``.task``.
        gate: figures of the gate.
        piqa: accuracy, once measured.
        speed: speed, once measured.
    """

    scheme: str
    model: FileDigest
    bundle: FileDigest
    gate: Gate
    piqa: Piqa | None = None
    speed: Speed | None = None


class Evaluation(Record):
    """The content of ``evaluation.json``.

    Attributes:
        format: names this format and its version.
        model: name of the release.
        manifest: SHA-256 of the manifest that it goes with.
        reference: what the artifacts were compared with, such as ``transformers 5.23.0, float32``.
        schemes: in the order of the build.
    """

    format: str
    model: str
    manifest: str
    reference: str
    schemes: tuple[SchemeEvaluation, ...]


def is_quick_look(piqa: Piqa | None) -> bool:
    """Return whether only some of the questions were asked."""
    return piqa is not None and piqa.questions < piqa.of


def questions(piqa: Piqa | None) -> str:
    """Return how many questions were asked: ``all 1,838``, or ``first 100 of 1,838``."""
    if piqa is None:
        return ""
    some = f"first {piqa.questions:,} of {piqa.of:,}"
    return some if is_quick_look(piqa) else f"all {piqa.of:,}"


def flag(piqa: Piqa | None) -> str:
    """Return the note next to a figure that is no result on PIQA; empty for one that is."""
    if piqa is None or not (piqa.own or is_quick_look(piqa)):
        return ""
    return f"{questions(piqa)} own questions" if piqa.own else questions(piqa)
