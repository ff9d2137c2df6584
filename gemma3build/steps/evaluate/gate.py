"""Compare the files of one scheme with the checkpoint that they were made from.

Inputs:
    model: a directory with the ``.tflite`` alone.
    bundle: a directory with the ``.task`` alone.
    package: a directory with the ``.litertlm`` alone.
    tokenizer: a directory with ``tokenizer.model`` alone.
    reference: the output of ``reference``.
Parameters:
    groups: each ``Group`` of the scheme as JSON, by name.
    limits: the scheme's ``Limits`` as JSON.
    longest: tokens that a prompt was cut to.
Outputs:
    ``gate.json``: a ``Gate``. The step succeeds whatever it says: figures of a bad file are worth
    keeping, and the host decides.

The figures come from the file's own prefill and decode signatures, never from a copy that was made for
measuring. LiteRT-LM must then say the same from the bundle, and from the package what it said from the
bundle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from gemma3build.gemma.checkpoint import TOKENIZER
from gemma3build.gemma.prompts import (
    LOGITS,
    QUESTION,
    REFERENCE,
    STOP_TOKENS,
    Continuation,
    Reference,
    sample_room,
)
from gemma3build.schema.evaluation import (
    GATE_FILE,
    Agreement,
    Check,
    Gate,
    PromptAgreement,
    Sample,
)
from gemma3build.schema.scheme import Limits, decode_groups
from gemma3build.schema.step import StepError, StepRequest
from gemma3build.steps.evaluate.interpreter import TfliteModel, log_softmax
from gemma3build.steps.evaluate.runtime import continuation, open_engine, stop_tokens, turn
from gemma3build.steps.shared.weights import check_weights
from gemma3build.util.machine import here, versions
from gemma3build.util.serialize import decode, decode_json, pretty_json

# Two runtimes may round differently, and so take either of two tokens that are as likely: a
# difference of logits below this is no difference.
NEAR_TIE = 0.05
BIGGEST = 1e9  # nats: stands for what is infinite or not a number
# A model that keeps opening turns has lost its template. What ends a turn is a stop token.
TURN = "<start_of_turn>"
GREETING = "Good morning"  # said to the chat template
PARTIAL = "\ufffd"  # stands for a character whose bytes have not all been said
RUNTIME = ("ai-edge-litert", "litert-lm-api")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """A greedy continuation by the interpreter.

    Attributes:
        tokens: new ids, without the stop token.
        margins: how far the taken token was ahead of the next one, in logits; one for each step.
        stopped: whether a stop token ended it.
    """

    tokens: tuple[int, ...]
    margins: tuple[float, ...]
    stopped: bool


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Measure; return whether every check passed."""
    folder = Path(request.inputs["reference"])
    reference = decode_json(Reference, (folder / REFERENCE).read_bytes(), REFERENCE)
    path = request.only_file("model")
    limits = decode(Limits, request.parameters["limits"], "limits")
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(Path(request.inputs["tokenizer"], TOKENIZER))
    )
    stop_ids = frozenset(tokenizer.PieceToId(piece) for piece in STOP_TOKENS)
    _, new = sample_room(request.parameters["longest"])
    weights, check = inspect_weights(path, request.parameters["groups"])
    try:
        measured, ours = run_model(path, reference, folder / LOGITS, new, stop_ids)
    except (RuntimeError, ValueError) as error:  # the interpreter's ways to say no
        broken = Check(name="interpreter", measured=str(error), allowed="it runs", passed=False)
        gate = Gate(
            checks=(check, broken), weights=weights, runtime=versions(*RUNTIME), machine=here()
        )
    else:
        total = summarize(list(measured.values()))
        samples, sample_checks = run_bundle(
            request.only_file("bundle"), new, stop_ids, ours, reference, tokenizer
        )
        package = request.only_file("package")
        # A bundle that did not load has no sample to compare with.
        asked = [sample for sample in samples if sample.name == QUESTION]
        package_checks = [run_package(package, sample, new, stop_ids) for sample in asked]
        gate = Gate(
            checks=(check, *compare(total, limits), *sample_checks, *package_checks),
            agreement=total,
            prompts=tuple(
                PromptAgreement(
                    name=prompt.name,
                    tokens=len(prompt.tokens),
                    agreement=summarize([measured[prompt.name]]),
                )
                for prompt in reference.prompts
            ),
            samples=samples,
            weights=weights,
            runtime=versions(*RUNTIME),
            machine=here(),
        )
    (output / GATE_FILE).write_bytes(pretty_json(gate))
    return {"passed": gate.passed}


def inspect_weights(path: Path, groups: Mapping[str, Any]) -> tuple[dict[str, Any], Check]:
    """Return how the weights in the file are stored, and whether the scheme says so."""
    allowed = "types, blocks and scales of the scheme"
    try:
        found = check_weights(path, decode_groups(groups))
    except StepError as error:
        return {}, Check(name="weights", measured=error.failure.why, allowed=allowed, passed=False)
    return found, Check(name="weights", measured="as the scheme says", allowed=allowed, passed=True)


def run_model(
    path: Path,
    reference: Reference,
    logits: Path,
    new: int,
    stop_ids: frozenset[int],
) -> tuple[dict[str, Distances], dict[str, Greedy]]:
    """Return the distances of each text, and what the model says after each sample prompt.

    The interpreter is gone afterwards: with weights that it expands to float it can hold gigabytes,
    and the other runtime is about to.
    """
    model = TfliteModel(path)
    measured = dict(measure(model, reference, logits))
    return measured, {
        item.name: greedy(model, item.prompt, new, stop_ids) for item in reference.continuations
    }


def measure(
    model: TfliteModel, reference: Reference, path: Path
) -> Iterator[tuple[str, Distances]]:
    """Yield the name and the distances of each prompt.

    Each prompt goes through one of the prefill signatures, in turn, so that all are run.
    """
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    first = 0
    for number, prompt in enumerate(reference.prompts):
        length = model.prefill_lengths[number % len(model.prefill_lengths)]
        found = model.score(prompt.tokens[:-1], prompt.scored, length)
        expected = rows[first : first + prompt.scored]
        first += prompt.scored
        yield prompt.name, distances(found, expected, prompt.tokens[-prompt.scored :])


def distances(found: np.ndarray, expected: np.ndarray, targets: tuple[int, ...]) -> Distances:
    """Compare logits."""
    ours, theirs = log_softmax(found), log_softmax(expected)
    rows = np.arange(len(targets))
    return Distances(
        same=(found.argmax(axis=-1) == expected.argmax(axis=-1)).astype(np.float64),
        kl=(np.exp(theirs) * (theirs - ours)).sum(axis=-1),
        nll=-ours[rows, targets],
        reference_nll=-theirs[rows, targets],
    )


def summarize(parts: list[Distances]) -> Agreement:
    """Return the means over all positions of some prompts.

    A logit that is not a number has no place in JSON, and an artifact that gives one agrees with
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


def compare(found: Agreement, limits: Limits) -> Iterator[Check]:
    """Yield a check for each limit."""

    def check(name: str, value: float, limit: float, *, least: bool = False) -> Check:
        passed = value >= limit if least else value <= limit
        allowed = f"{'≥' if least else '≤'} {limit:g}"
        return Check(name=name, measured=f"{value:.6g}", allowed=allowed, passed=passed)

    yield check("top-1 agreement", found.top1, limits.top1, least=True)
    yield check("KL divergence", found.kl, limits.kl)
    yield check("NLL increase", found.nll - found.reference_nll, limits.nll_increase)
    if limits.deviation is not None:
        yield check("largest log-probability difference", found.deviation, limits.deviation)


def run_bundle(
    bundle: Path,
    new: int,
    stop_ids: frozenset[int],
    ours: Mapping[str, Greedy],
    reference: Reference,
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> tuple[tuple[Sample, ...], tuple[Check, ...]]:
    """Continue the sample prompts in LiteRT-LM; return all continuations, and the checks."""
    sources = {item.name: item for item in reference.continuations}
    texts = {name: tokenizer.DecodeIds(list(item.prompt[1:])) for name, item in sources.items()}
    try:
        with open_engine(bundle) as engine:
            known_stops = stop_tokens(engine)
            theirs = {name: continuation(engine, text, new) for name, text in texts.items()}
    except RuntimeError as error:
        failed = Check(
            name="bundle in LiteRT-LM", measured=str(error), allowed="it loads", passed=False
        )
        return (), (failed,)
    samples = tuple(
        Sample(
            name=name,
            prompt=texts[name],
            source=tokenizer.DecodeIds(list(source.tokens)),
            artifact=tokenizer.DecodeIds(list(ours[name].tokens)),
            bundle=theirs[name],
            stopped=ours[name].stopped,
        )
        for name, source in sources.items()
    )
    return samples, (
        same_text(samples, ours, tokenizer),
        stops(stop_ids, known_stops),
        ends(ours, theirs, tokenizer),
        template(ours, sources, tokenizer),
    )


def run_package(package: Path, sample: Sample, new: int, stop_ids: frozenset[int]) -> Check:
    """Check that LiteRT-LM says from the package what it said from the bundle, to one prompt.

    It is the same model in the same runtime, so one prompt with turns shows whether metadata and
    tokenizer are, too.
    """

    def check(measured: str, allowed: str, *, passed: bool = False) -> Check:
        name = "package in LiteRT-LM"
        return Check(name=name, measured=measured, allowed=allowed, passed=passed)

    try:
        with open_engine(package) as engine:
            text = continuation(engine, sample.prompt, new)
            known_stops = stop_tokens(engine)
            greeting = turn(engine, GREETING)
    except RuntimeError as error:
        return check(str(error), "it loads")
    if text != sample.bundle:
        return check(repr(text), f"{sample.bundle!r}, as the bundle")
    if not known_stops >= stop_ids:
        return check(f"stop tokens {sorted(known_stops)}", f"stop tokens {sorted(stop_ids)}")
    if GREETING not in greeting:
        return check(f"a turn of {greeting!r}", "a chat template that LiteRT-LM can apply")
    return check("1 continuation", "equal to the bundle's", passed=True)


def greedy(
    model: TfliteModel, prompt: tuple[int, ...], new: int, stop_ids: frozenset[int]
) -> Greedy:
    """Continue a prompt by the likeliest token each time."""
    tokens: list[int] = []
    margins = []
    for logits in model.generate(prompt, new, model.prefill_lengths[0]):
        second, first = np.partition(logits, -2)[-2:]
        margins.append(float(first - second))
        token = int(logits.argmax())
        if token in stop_ids:
            return Greedy(tokens=tuple(tokens), margins=tuple(margins), stopped=True)
        tokens.append(token)
    return Greedy(tokens=tuple(tokens), margins=tuple(margins), stopped=False)


def same_text(
    samples: tuple[Sample, ...],
    ours: Mapping[str, Greedy],
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> Check:
    """Check that both runtimes say the same, up to where two tokens are as likely."""
    for sample in samples:
        found = ours[sample.name]
        sure = next(
            (number for number, margin in enumerate(found.margins) if margin < NEAR_TIE),
            len(found.tokens),
        )
        text = tokenizer.DecodeIds(list(found.tokens[:sure])).rstrip(PARTIAL)
        if not sample.bundle.startswith(text):
            return Check(
                name="bundle in LiteRT-LM",
                measured=f"{sample.name}: {sample.bundle!r}",
                allowed=f"{text!r}, as the model in it",
                passed=False,
            )
    return Check(
        name="bundle in LiteRT-LM",
        measured=f"{len(samples)} continuations",
        allowed="equal to the model in it",
        passed=True,
    )


def stops(expected: frozenset[int], found: set[int]) -> Check:
    """Check that LiteRT-LM reads the stop tokens from the bundle."""
    return Check(
        name="stop tokens",
        measured=" ".join(map(str, sorted(found))),
        allowed=" ".join(map(str, sorted(expected))),
        passed=found >= expected,
    )


def ends(ours: Mapping[str, Greedy], theirs: Mapping[str, str], tokenizer: Any) -> Check:
    """Check that LiteRT-LM stops at a stop token that the artifact says, and prints none."""
    stopping = {
        name: found
        for name, found in ours.items()
        if found.stopped and min(found.margins) >= NEAR_TIE
    }
    kept = [
        name
        for name, found in stopping.items()
        if theirs[name].rstrip(PARTIAL) == tokenizer.DecodeIds(list(found.tokens)).rstrip(PARTIAL)
    ]
    return Check(
        name="stops in LiteRT-LM",
        measured=f"{len(kept)} of {len(stopping)}",
        allowed="where the model in it stops",
        passed=len(kept) == len(stopping),
    )


def template(
    ours: Mapping[str, Greedy],
    sources: Mapping[str, Continuation],
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> Check:
    """Check that the artifact does not open turns again and again where the checkpoint does not."""
    turn = tokenizer.PieceToId(TURN)
    more = max(
        ours[name].tokens.count(turn) - source.tokens.count(turn)
        for name, source in sources.items()
    )
    return Check(
        name="turns opened in an answer",
        measured=f"{more:+d} of the checkpoint's",
        allowed="≤ +1",
        passed=more <= 1,
    )
