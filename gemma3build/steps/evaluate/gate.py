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
    ``gate.json``: a ``Gate``. The step succeeds even if checks fail: the figures of a bad file are
    worth keeping, and the host decides.

The figures come from the prefill and decode signatures of the file itself, never from a copy that was
made for measuring. LiteRT-LM must then generate the same text from the bundle, and from the package the
text that it generated from the bundle.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from gemma3build.gemma.checkpoint import TOKENIZER
from gemma3build.gemma.prompts import (
    LOGITS,
    QUESTION,
    REFERENCE,
    STOP_TOKENS,
    Reference,
    sample_room,
)
from gemma3build.schema.evaluation import GATE_FILE, Check, Gate, PromptAgreement
from gemma3build.schema.scheme import Limits, decode_groups
from gemma3build.schema.step import StepError, StepRequest
from gemma3build.steps.evaluate.agreement import Distances, check_limits, measure, summarize
from gemma3build.steps.evaluate.continuations import Greedy, greedy, run_bundle, run_package
from gemma3build.steps.evaluate.interpreter import TfliteModel
from gemma3build.steps.shared.weights import check_weights
from gemma3build.util.machine import here, versions
from gemma3build.util.serialize import decode, decode_json, pretty_json

RUNTIME = ("ai-edge-litert", "litert-lm-api")


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
    except (RuntimeError, ValueError) as error:  # the interpreter cannot run it
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
            checks=(check, *check_limits(total, limits), *sample_checks, *package_checks),
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
    """Return how the weights in the file are stored, and the check against the scheme."""
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
    """Return the distances of each text, and the model's continuation of each sample prompt.

    The interpreter is freed at the end: with weights expanded to float it can hold gigabytes, and the
    other runtime loads the model next.
    """
    model = TfliteModel(path)
    measured = dict(measure(model, reference, logits))
    return measured, {
        item.name: greedy(model, item.prompt, new, stop_ids) for item in reference.continuations
    }
