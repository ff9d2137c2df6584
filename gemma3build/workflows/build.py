"""Build a release from a prepared plan."""

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
    """A release, the results of its steps by name, and whether there was nothing to do."""

    manifest: Manifest
    evaluation: Evaluation
    folder: Path
    done: Mapping[str, FinishedStep]
    idle: bool


class Builder:
    """Builds prepared plans."""

    def __init__(self, runner: Runner, source: GitRevision | None = None) -> None:
        """Build with ``runner``; a release must be from ``source``, if given."""
        self._runner, self._source = runner, source

    def find(self, prepared: Prepared, folder: Path) -> BuildResult | None:
        """Return the release if it already exists and is complete; run nothing."""
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
        """Return the release; build it if it is missing. Raises what ``build`` raises."""
        found = self.find(prepared, folder)
        if found is not None:
            return found
        if self._runner.cache.once("terms-shown"):
            self._runner.say(TERMS)
        return self.build(prepared, folder, jobs, reporter)

    def build(self, prepared: Prepared, folder: Path, jobs: int, reporter: Reporter) -> BuildResult:
        """Run the missing steps and write the release.

        Raises:
            BuildError: a file differs from the checkpoint, and the release is in a folder next to
                ``folder`` (GATE); something else failed. Finished steps are kept.
        """
        plan = prepared.plan
        # Read now, because the source may change while the build runs.
        started, source = time.time(), self._source or find_revision()
        check_output(folder)
        done = self._runner.run(plan.steps, origin(self._runner, prepared), jobs, reporter)
        for artifact in plan.artifacts:
            # No later step read these files; they may be weeks old.
            intact_output(self._runner.cache, artifact.source.step, done, UNWRITTEN)
        release = self._recorded(self._release(plan, done), plan, source, started)
        failed = failed_checks(release.evaluation)
        refused = folder.with_name(folder.name + REFUSED)
        if failed:
            self._write(release, refused)
            raise BuildError(
                ErrorCode.GATE,
                f"The quality gate rejected the release: {', '.join(failed)} differ from the checkpoint",
                "the table above shows the measured and the allowed values",
                f"The files are in {refused}. Use another scheme, or write a scheme file with wider "
                "limits if you accept the loss of quality.",
                checks=failed,
            )
        release = self._write(release, folder)
        with release_lock(self._runner, refused):
            if is_release(refused):  # from an earlier build of this name
                remove(refused)
        return build_result(release, folder, done, idle=False)

    def _write(self, release: Release, folder: Path) -> Release:
        """Write a release with the known results of its files; return it with them."""
        with release_lock(self._runner, folder):
            check_replaceable(folder)
            release = carried(release, folder)
            write(release, measured_files(release.manifest, release.evaluation), folder)
        return release

    def _recorded(
        self, release: Release, plan: Plan, source: GitRevision | None, started: float
    ) -> Release:
        """Return a release with its SBOM and its provenance."""
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
    """Return the Git revision that runs; raises BuildError (SOURCE) unless it is a clean commit."""
    source = find_revision()
    if source is None:
        why = "the package is not in a checkout that git can read"
        hint = "Clone the project as the user who builds."
    elif source.dirty:
        why = f"it is not what commit {source.commit[:12]} has"
        hint = "Commit or remove the changes: git status"
    else:
        return source
    raise BuildError(ErrorCode.SOURCE, "No release can be built from this source", why, hint)


def carried(release: Release, folder: Path) -> Release:
    """Return a release with the results that the release in ``folder`` has of the same files."""
    evaluation = carry_over(release.evaluation, read_evaluation(folder))
    return dataclasses.replace(release, evaluation=evaluation)


def origin(runner: Runner, prepared: Prepared) -> InputProvider:
    """Return where the checkpoint of a plan comes from."""
    if isinstance(prepared.origin, LocalCheckpoint):
        return prepared.origin
    return PackagedModel(runner.downloads, prepared.origin, runner.config, runner.say)


def release_lock(runner: Runner, folder: Path) -> AbstractContextManager[None]:
    """Return the lock that gemma3build holds while it writes a release."""
    return runner.cache.lock(sha256_bytes(os.fsencode(folder.resolve())))


def build_result(
    release: Release, folder: Path, done: Mapping[str, FinishedStep], *, idle: bool
) -> BuildResult:
    """Return the result of a build."""
    return BuildResult(
        manifest=release.manifest,
        evaluation=release.evaluation,
        folder=folder,
        done=done,
        idle=idle,
    )


def failed_checks(evaluation: Evaluation) -> dict[str, tuple[Check, ...]]:
    """Return the checks that failed, by scheme; empty if all passed."""
    return {
        item.scheme: failed
        for item in evaluation.schemes
        if (failed := tuple(check for check in item.gate.checks if not check.passed))
    }
