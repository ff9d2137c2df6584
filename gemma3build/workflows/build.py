"""The main job: from a plan to a release."""

import dataclasses
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from gemma3build.engine.executor import FinishedStep, InputProvider, Reporter, intact_output
from gemma3build.engine.inputs import LocalCheckpoint, PackagedModel
from gemma3build.engine.runner import Runner
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.plan.build import gate_step
from gemma3build.plan.graph import Plan
from gemma3build.release.checksums import PROVENANCE
from gemma3build.release.directory import (
    Release,
    check_output,
    check_replaceable,
    is_release,
    remove,
    write,
)
from gemma3build.release.evaluation import carry_over, read_evaluation
from gemma3build.release.provenance import BuildRun, make_provenance, read_revision
from gemma3build.release.sbom import make_sbom
from gemma3build.report.report import measured_files
from gemma3build.schema.evaluation import Check, Evaluation
from gemma3build.schema.manifest import REFUSED, Manifest
from gemma3build.util.files import sha256_bytes
from gemma3build.util.git import GitRevision, find_revision
from gemma3build.workflows.assemble import is_written, make_evaluation, make_manifest
from gemma3build.workflows.request import Prepared

TERMS = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms;"
    " they travel with every release as Notice and GEMMA_TERMS_OF_USE.md."
)
UNWRITTEN = "The release cannot be written"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build did.

    Attributes:
        manifest: the record of the release.
        evaluation: what was measured about it.
        folder: where the release is.
        done: results of the steps by name.
        idle: whether nothing had to be done.
    """

    manifest: Manifest
    evaluation: Evaluation
    folder: Path
    done: Mapping[str, FinishedStep]
    idle: bool


class Builder:
    """Builds prepared plans."""

    def __init__(self, runner: Runner, source: GitRevision | None = None) -> None:
        """Take what runs the steps, and the source that releases must be from, if it matters."""
        self._runner, self._source = runner, source

    def find(self, prepared: Prepared, folder: Path) -> BuildResult | None:
        """Return the release if it is there already, whole; starts nothing."""
        plan = prepared.plan
        if self._source is not None and read_revision(folder / PROVENANCE) != self._source:
            return None
        done = self._runner.found(plan.steps)
        if len(done) < len(plan.steps):
            return None
        release = carried(self._release(plan, done), folder)
        if failed_checks(release.evaluation) or not is_written(release, folder):
            return None
        return build_result(release, folder, done, idle=True)

    def ensure(
        self, prepared: Prepared, folder: Path, jobs: int, reporter: Reporter
    ) -> BuildResult:
        """Return the release, built unless it is there already; raises what ``build`` raises."""
        found = self.find(prepared, folder)
        if found is not None:
            return found
        if self._runner.cache.once("terms-shown"):
            self._runner.say(TERMS)
        return self.build(prepared, folder, jobs, reporter)

    def build(self, prepared: Prepared, folder: Path, jobs: int, reporter: Reporter) -> BuildResult:
        """Run what has to run and write the release.

        Raises:
            BuildError: a file is not faithful to the checkpoint; the release lies aside (GATE);
                something else failed; what was finished is kept.
        """
        plan = prepared.plan
        # Now: the source may be edited while the build runs.
        started, source = time.time(), self._source or find_revision()
        check_output(folder)
        done = self._runner.run(plan.steps, origin(self._runner, prepared), jobs, reporter)
        for artifact in plan.artifacts:
            # What no later step read was not read since it was written, maybe weeks ago.
            intact_output(self._runner.cache, artifact.source.step, done, UNWRITTEN)
        release = self._recorded(self._release(plan, done), plan, source, started)
        failed = failed_checks(release.evaluation)
        refused = folder.with_name(folder.name + REFUSED)
        if failed:
            self._write(release, refused)
            raise BuildError(
                ErrorCode.GATE,
                f"The release was refused: {', '.join(failed)} differ from the checkpoint",
                "the table above has what was measured and what is allowed",
                f"The files are in {refused} to look at. Use another scheme, or one of your own "
                "with wider limits if you know what you lose.",
                checks=failed,
            )
        release = self._write(release, folder)
        with release_lock(self._runner, refused):
            if is_release(refused):  # of this name, by a build before
                remove(refused)
        return build_result(release, folder, done, idle=False)

    def _write(self, release: Release, folder: Path) -> Release:
        """Write a release with the figures that are known of its files; return it with them."""
        with release_lock(self._runner, folder):
            check_replaceable(folder)
            release = carried(release, folder)
            write(release, measured_files(release.manifest, release.evaluation), folder)
        return release

    def _recorded(
        self, release: Release, plan: Plan, source: GitRevision | None, started: float
    ) -> Release:
        """Return a release with its bill of materials and its provenance."""
        packages = self._runner.packages(self._runner.images(plan.steps))
        release = dataclasses.replace(release, sbom=make_sbom(release.manifest, packages))
        provenance = make_provenance(
            release.manifest,
            release.digests,
            packages,
            source=source,
            epoch=self._runner.config.source_date_epoch,
            run=BuildRun(started=started, finished=time.time()),
        )
        return dataclasses.replace(release, provenance=provenance)

    def _release(self, plan: Plan, done: Mapping[str, FinishedStep]) -> Release:
        cache = self._runner.cache
        for scheme in plan.schemes:
            intact_output(cache, gate_step(scheme.name), done, UNWRITTEN)
        images = self._runner.images(plan.steps)
        manifest = make_manifest(plan, done, images, self._runner.sources)
        artifacts = {
            artifact.file_name: cache.output(done[artifact.source.step].key) / artifact.source.path
            for artifact in plan.artifacts
        }
        evaluation = make_evaluation(plan, done, cache, manifest)
        return Release(manifest=manifest, evaluation=evaluation, artifacts=artifacts)


def clean_revision() -> GitRevision:
    """Return the source that runs; refuse one that others could not build from.

    Raises:
        BuildError: the source has changes that no commit has, or no commit is known (SOURCE).
    """
    source = find_revision()
    if source is None:
        why = "the package does not lie in a checkout that git can read"
        hint = "Clone the project as the user who builds."
        raise BuildError(ErrorCode.SOURCE, "No release can be built from this source", why, hint)
    if source.dirty:
        why = f"it is not what commit {source.commit[:12]} has"
        hint = "Commit or remove the changes: git status"
        raise BuildError(ErrorCode.SOURCE, "No release can be built from this source", why, hint)
    return source


def carried(release: Release, folder: Path) -> Release:
    """Return a release with the figures that the one in ``folder`` has of the same files."""
    evaluation = carry_over(release.evaluation, read_evaluation(folder))
    return dataclasses.replace(release, evaluation=evaluation)


def origin(runner: Runner, prepared: Prepared) -> InputProvider:
    """Return where the checkpoint of a plan comes from."""
    if isinstance(prepared.origin, LocalCheckpoint):
        return prepared.origin
    return PackagedModel(runner.downloads, prepared.origin, runner.config, runner.say)


def release_lock(runner: Runner, folder: Path) -> AbstractContextManager[None]:
    """Return the lock that writers of a release hold."""
    return runner.cache.lock(sha256_bytes(os.fsencode(folder.resolve())))


def build_result(
    release: Release, folder: Path, done: Mapping[str, FinishedStep], *, idle: bool
) -> BuildResult:
    """Return what a build did."""
    return BuildResult(
        manifest=release.manifest,
        evaluation=release.evaluation,
        folder=folder,
        done=done,
        idle=idle,
    )


def failed_checks(evaluation: Evaluation) -> dict[str, tuple[Check, ...]]:
    """Return the checks that failed, by scheme; empty where all passed."""
    failed = {
        item.scheme: tuple(check for check in item.gate.checks if not check.passed)
        for item in evaluation.schemes
    }
    return {scheme: checks for scheme, checks in failed.items() if checks}
