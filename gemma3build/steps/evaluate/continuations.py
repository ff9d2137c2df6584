"""Whether LiteRT-LM continues prompts from the bundle and the package as the artifact in them does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from gemma3build.gemma.prompts import Continuation, Reference
from gemma3build.schema.evaluation import Check, Sample
from gemma3build.steps.evaluate.interpreter import TfliteModel
from gemma3build.steps.evaluate.runtime import continuation, open_engine, stop_tokens, turn

# Two runtimes may round differently, and so take either of two tokens that are as likely: a
# difference of logits below this is no difference.
NEAR_TIE = 0.05
# A model that keeps opening turns has lost its template. What ends a turn is a stop token.
TURN = "<start_of_turn>"
GREETING = "Good morning"  # a message for the chat template
PARTIAL = "\ufffd"  # stands for a character of which only some bytes were generated
BUNDLE, PACKAGE = "bundle in LiteRT-LM", "package in LiteRT-LM"  # names of checks


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
        return (), (Check(name=BUNDLE, measured=str(error), allowed="it loads", passed=False),)
    samples = tuple(
        Sample(
            name=name,
            prompt=texts[name],
            source=tokenizer.DecodeIds(list(item.tokens)),
            artifact=tokenizer.DecodeIds(list(ours[name].tokens)),
            bundle=theirs[name],
            stopped=ours[name].stopped,
        )
        for name, item in sources.items()
    )
    return samples, (
        same_text(samples, ours, tokenizer),
        stops(stop_ids, known_stops),
        ends(ours, theirs, tokenizer),
        template(ours, sources, tokenizer),
    )


def run_package(package: Path, sample: Sample, new: int, stop_ids: frozenset[int]) -> Check:
    """Check that LiteRT-LM continues one prompt from the package as from the bundle.

    Model and runtime are the same, so one prompt with turns shows whether metadata and tokenizer are
    the same too.
    """

    def check(measured: str, allowed: str, *, passed: bool = False) -> Check:
        return Check(name=PACKAGE, measured=measured, allowed=allowed, passed=passed)

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


def same_text(
    samples: tuple[Sample, ...],
    ours: Mapping[str, Greedy],
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> Check:
    """Check that both runtimes generate the same text, up to where two tokens are as likely."""
    for sample in samples:
        found = ours[sample.name]
        sure = next(
            (number for number, margin in enumerate(found.margins) if margin < NEAR_TIE),
            len(found.tokens),
        )
        text = tokenizer.DecodeIds(list(found.tokens[:sure])).rstrip(PARTIAL)
        if not sample.bundle.startswith(text):
            return Check(
                name=BUNDLE,
                measured=f"{sample.name}: {sample.bundle!r}",
                allowed=f"{text!r}, as the model in it",
                passed=False,
            )
    return Check(
        name=BUNDLE,
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


def ends(
    ours: Mapping[str, Greedy],
    theirs: Mapping[str, str],
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> Check:
    """Check that LiteRT-LM stops where the artifact generates a stop token, and prints none."""
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
    """Check that the artifact does not open many more turns than the checkpoint."""
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
