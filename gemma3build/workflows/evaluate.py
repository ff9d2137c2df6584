"""Measure PIQA and speed of a release; write its evaluation and its report."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from msgspec import structs

from gemma3build.engine import preflight
from gemma3build.engine.downloads import dataset_files
from gemma3build.engine.executor import FinishedStep, InputProvider, Reporter, intact_output
from gemma3build.engine.inputs import ChainedInputs, LocalFiles
from gemma3build.engine.runner import Runner
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.gemma.piqa import data_digest, make_questions, read_data
from gemma3build.pins.config import load_datasets
from gemma3build.plan.evaluation import piqa_step, plan_evaluation, speed_step
from gemma3build.plan.graph import Step
from gemma3build.release.directory import write_measured
from gemma3build.release.evaluation import manifest_digest, merge, read_evaluation, worth
from gemma3build.release.manifest import read_manifest
from gemma3build.report.report import measured_files
from gemma3build.schema.evaluation import (
    PIQA_FILE,
    SPEED_FILE,
    Evaluation,
    Piqa,
    SchemeEvaluation,
    Speed,
    questions,
)
from gemma3build.schema.manifest import Manifest
from gemma3build.util.files import FileDigest
from gemma3build.util.serialize import decode_json
from gemma3build.workflows.build import origin, release_lock
from gemma3build.workflows.request import REBUILD, OwnCheckpoint, find_scheme, prepare_again

PIQA = "piqa"
Data: TypeAlias = tuple[list[str], list[str]]  # lines of questions, and of labels
REFUSAL = "The release cannot be evaluated"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedRelease:
    """A release with its evaluation."""

    folder: Path
    manifest: Manifest
    evaluation: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """The options of ``evaluate``.

    Attributes:
        checkpoint: the user's own checkpoint that the release was built from, if any.
        tokenizer: the user's own tokenizer that the release was built with, if any.
        piqa: a folder with the files of PIQA; None downloads them.
        limit: number of questions; None asks all.
    """

    checkpoint: Path | None = None
    tokenizer: Path | None = None
    piqa: Path | None = None
    limit: int | None = None


def read_release(folder: Path) -> EvaluatedRelease:
    """Return a release with its evaluation.

    Raises:
        BuildError: it is no release, or its evaluation is of another manifest or other files
            (REQUEST).
    """
    manifest = read_manifest(folder)
    evaluation = read_evaluation(folder)
    if evaluation is None or evaluation.manifest != manifest_digest(manifest):
        why = f"{folder} has no evaluation.json that matches its manifest"
        raise BuildError(ErrorCode.REQUEST, REFUSAL, why, REBUILD)
    check_files(manifest, evaluation)
    return EvaluatedRelease(folder=folder, manifest=manifest, evaluation=evaluation)


def check_files(manifest: Manifest, evaluation: Evaluation) -> None:
    """Reject an evaluation of files that are not in the manifest."""
    known = {
        (item.scheme, FileDigest(path=item.path, size=item.size, sha256=item.sha256))
        for item in manifest.artifacts
    }
    for item in evaluation.schemes:
        for file in (item.model, item.bundle):
            if (item.scheme, file) not in known:
                why = f"evaluation.json names a {file.path!r} that is not in the manifest"
                raise BuildError(ErrorCode.REQUEST, REFUSAL, why, REBUILD)


def prepare_evaluation(
    release: EvaluatedRelease, request: EvaluationRequest, runner: Runner
) -> tuple[tuple[Step, ...], ChainedInputs]:
    """Return the steps that measure a release, and what provides their inputs.

    Raises:
        BuildError: a file is missing or has another digest than in the manifest, or the release
            cannot be written.
    """
    preflight.check_writable(release.folder.parent, release.folder)
    own = OwnCheckpoint(folder=request.checkpoint, tokenizer=request.tokenizer)
    prepared = prepare_again(release.manifest, own, REFUSAL)
    asked, own_questions = find_questions(request.piqa, runner)
    items = release.evaluation.schemes
    models = {item.scheme: intact_file(release.folder, item.model) for item in items}
    bundles = {item.scheme: intact_file(release.folder, item.bundle) for item in items}
    steps = plan_evaluation(
        prepared.plan,
        schemes=tuple(find_scheme(release.manifest, item.scheme, REFUSAL) for item in items),
        models={scheme: files.material for scheme, files in models.items()},
        bundles={scheme: files.material for scheme, files in bundles.items()},
        questions=asked.material,
        own=own_questions,
        limit=request.limit,
    )
    local = (asked, *models.values(), *bundles.values())
    places = {files.material.name: files for files in local}
    return steps, ChainedInputs(places, fallback=origin(runner, prepared))


def evaluate(
    release: EvaluatedRelease,
    steps: tuple[Step, ...],
    inputs: InputProvider,
    runner: Runner,
    reporter: Reporter,
) -> EvaluatedRelease:
    """Run the steps, one at a time, and write the results into the release.

    Returns:
        The new results, even where the release keeps an older one of more questions.

    Raises:
        BuildError: something failed; finished steps are kept.
    """
    done = runner.run(steps, inputs, 1, reporter)
    schemes = tuple(measured_scheme(item, done, runner) for item in release.evaluation.schemes)
    measured = structs.replace(release.evaluation, schemes=schemes)
    with release_lock(runner, release.folder):
        there = read_release(release.folder)  # another evaluation may have written it since
        if there.manifest != release.manifest:
            why = f"another build replaced {release.folder} while it was measured"
            raise BuildError(ErrorCode.REQUEST, REFUSAL, why, "Run the same command again.")
        kept = merge(there.evaluation, measured)
        write_measured(measured_files(release.manifest, kept), release.folder)
    now = {item.scheme: item.piqa for item in schemes}
    for item in kept.schemes:
        if item.piqa is not None and item.piqa != now.get(item.scheme):
            runner.say(f"{item.scheme}: the release keeps PIQA on {questions(item.piqa)} questions")
    return dataclasses.replace(release, evaluation=measured)


def is_measured(evaluation: Evaluation, request: EvaluationRequest, runner: Runner) -> bool:
    """Return whether a release has the requested results, or better ones.

    Raises:
        BuildError: the user's own questions cannot be read (REQUEST).
    """
    own: Data | None = None
    if request.piqa is not None and find_questions(request.piqa, runner)[1]:
        own = read_data(request.piqa)
    return all(
        item.speed is not None and says_enough(item.piqa, own, request.limit)
        for item in evaluation.schemes
    )


def says_enough(piqa: Piqa | None, own: Data | None, limit: int | None) -> bool:
    """Return whether a result is the requested one, or of more questions."""
    if piqa is None:
        return False
    if own is not None:
        quick = limit is not None and limit < len(own[0])
        wanted = 1 if quick else 2
        same = piqa.own and piqa.data == data_digest(*(lines[: piqa.questions] for lines in own))
    else:
        quick = limit is not None and (piqa.own or limit < piqa.of)
        wanted = 1 if quick else 3
        same = not piqa.own
    if worth(piqa) != wanted:
        return worth(piqa) > wanted
    return same and (not quick or limit is None or piqa.questions >= limit)


def measured_scheme(
    item: SchemeEvaluation, done: Mapping[str, FinishedStep], runner: Runner
) -> SchemeEvaluation:
    """Return a scheme's evaluation with the new results."""
    piqa = intact_output(runner.cache, piqa_step(item.scheme), done, REFUSAL) / PIQA_FILE
    speed = intact_output(runner.cache, speed_step(item.scheme), done, REFUSAL) / SPEED_FILE
    return structs.replace(
        item,
        piqa=decode_json(Piqa, piqa.read_bytes(), PIQA_FILE),
        speed=decode_json(Speed, speed.read_bytes(), SPEED_FILE),
    )


def find_questions(folder: Path | None, runner: Runner) -> tuple[LocalFiles, bool]:
    """Return the files of PIQA, and whether they differ from the pinned ones.

    Raises:
        BuildError: the files in ``folder`` cannot be read or are not in PIQA's format (REQUEST);
            the pinned ones cannot be downloaded (DOWNLOAD).
    """
    dataset = load_datasets()[PIQA]
    if folder is None:
        return local_files(PIQA, dataset_files(runner.cache, PIQA, dataset, runner.say)), False
    found = local_files(PIQA, {name: folder / name for name in dataset.sha256})
    try:
        make_questions(*read_data(folder))
    except (OSError, ValueError) as error:
        what, hint = f"{folder} has no questions to ask", "Use files in the format of PIQA's."
        raise BuildError(ErrorCode.REQUEST, what, str(error), hint) from error
    return found, {file.path: file.sha256 for file in found.material.files} != dataset.sha256


def intact_file(folder: Path, digest: FileDigest) -> LocalFiles:
    """Return a file of a release; raises BuildError (DAMAGED) unless it has this digest."""
    found = local_files(digest.path, {digest.path: folder / digest.path})
    if found.material.files != (digest,):
        why = f"{digest.path} has another digest than in the manifest"
        raise BuildError(ErrorCode.DAMAGED, REFUSAL, why, REBUILD)
    return found


def local_files(name: str, paths: Mapping[str, Path]) -> LocalFiles:
    """Return files as inputs of steps; raises BuildError (REQUEST) for one that cannot be read."""
    try:
        return LocalFiles(name, paths)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
        raise BuildError(ErrorCode.REQUEST, REFUSAL, why, "Check the path.") from error
