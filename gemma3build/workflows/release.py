"""The release pipeline: build, evaluate, sign, verify and publish releases."""

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gemma3build.engine.executor import Reporter
from gemma3build.engine.runner import Runner
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule
from gemma3build.release.checksums import SIGNATURE
from gemma3build.release.evaluation import read_evaluation
from gemma3build.report.index import (
    INDEX,
    Index,
    IndexedRelease,
    IndexEntry,
    Published,
    Signed,
    index_release,
    known_publication,
    read_index,
    reindex_release,
    write_index,
)
from gemma3build.schema.evaluation import Evaluation
from gemma3build.schema.manifest import Manifest
from gemma3build.util.git import GitRevision
from gemma3build.util.text import escape_control_chars
from gemma3build.verify.checks import Trust
from gemma3build.verify.untrusted import Advance
from gemma3build.verify.verify import Verified, total_bytes, verify
from gemma3build.workflows.build import Builder, clean_revision, release_lock
from gemma3build.workflows.evaluate import (
    EvaluatedRelease,
    EvaluationRequest,
    evaluate,
    find_questions,
    is_measured,
    prepare_evaluation,
    read_release,
)
from gemma3build.workflows.preflight import check_capacity, error_context
from gemma3build.workflows.release_file import PlannedRelease

if TYPE_CHECKING:
    from gemma3build.publish.publish import Publication, Target
    from gemma3build.verify.signature import Signer


class Stage(enum.StrEnum):
    """A stage of the pipeline; the members are in order."""

    BUILD = "build"
    EVALUATE = "evaluate"
    SIGN = "sign"
    VERIFY = "verify"
    PUBLISH = "publish"


class PipelineReporter(Protocol):
    """Shows the progress of the pipeline."""

    def begin(self, stage: Stage, name: str, number: int, total: int) -> None:
        """Show that a stage of a release begins."""

    def steps(self, number: int) -> AbstractContextManager[Reporter]:
        """Return a reporter of that many steps."""

    def reading(self, size: int) -> AbstractContextManager[Advance]:
        """Return a progress bar of that many bytes."""

    def say(self, text: str) -> None:
        """Show a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """The options that all releases share.

    Attributes:
        version: of the releases, and their tag on the Hub.
        folder: of the releases and their index.
        source: the Git revision that builds them.
        measuring: the questions to ask.
        signer: signs them; None signs nothing.
        trust: checks the signatures; None checks none.
        identity: the signer at Sigstore that ``trust`` expects, if any.
        jobs: number of containers at a time.
    """

    version: str
    folder: Path
    source: GitRevision
    measuring: EvaluationRequest
    signer: "Signer | None"
    trust: Trust | None
    identity: str = ""
    jobs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """A release that went through the pipeline.

    Attributes:
        planned: its plan.
        folder: of the release.
        measured: its records.
        verified: its checks.
        signed: its signer; None for an unsigned release.
        ran: the stages that had something to do.
        published: its commit on the Hub, if known.
    """

    planned: PlannedRelease
    folder: Path
    measured: EvaluatedRelease
    verified: Verified
    signed: Signed | None
    ran: tuple[Stage, ...]
    published: Published | None = None

    @property
    def name(self) -> str:
        """Name of the release."""
        return self.planned.name

    @property
    def manifest(self) -> Manifest:
        """The record of the release."""
        return self.measured.manifest

    @property
    def listed(self) -> IndexedRelease:
        """Its entry in the index."""
        return index_release(
            self.verified, self.manifest, self.measured.evaluation, self.signed, self.published
        )


class Pipeline:
    """Takes releases through all stages; finished stages are kept."""

    def __init__(self, config: PipelineConfig, runner: Runner, reporter: PipelineReporter) -> None:
        """Run steps with ``runner``, and show them with ``reporter``."""
        self._config, self._runner, self._reporter = config, runner, reporter
        self._builder = Builder(runner, config.source)
        self._kept: dict[str, IndexedRelease] = {}  # of other runs, each verified once

    def preflight_checks(self, releases: Sequence[PlannedRelease], *, full: bool) -> None:
        """Reject releases that would fail, before any step runs; ``full`` requires all of PIQA.

        Raises:
            BuildError: a step does not fit, or the questions are too few or cannot be downloaded.
        """
        wanted = self._config.measuring
        known = [read_evaluation(self._config.folder / release.name) for release in releases]
        measured = [self._is_measured(item, wanted) for item in known]
        check_capacity(self._runner, self._config.folder, releases, measured)
        if all(measured):
            return
        _, own = find_questions(wanted.piqa, self._runner)
        some = own or wanted.limit is not None
        everything = EvaluationRequest()
        if full and some and not all(self._is_measured(item, everything) for item in known):
            why = "--publish takes all questions of PIQA, and others or fewer would be asked"
            hint = "Omit --limit and --piqa, or add --skip piqa."
            raise BuildError(ErrorCode.REQUEST, "The releases could not be published", why, hint)

    def _is_measured(self, known: Evaluation | None, wanted: EvaluationRequest) -> bool:
        return known is not None and is_measured(known, wanted, self._runner)

    def make(self, releases: Sequence[PlannedRelease]) -> tuple[tuple[PipelineResult, ...], bool]:
        """Make releases and their index; return them, and whether the index was written.

        Raises:
            BuildError: a stage failed; a note names it. Finished stages are kept.
        """
        results = tuple(
            self._make(release, number, len(releases)) for number, release in enumerate(releases, 1)
        )
        return self._write_index(results)

    def publish(
        self, results: Sequence[PipelineResult], targets: Sequence["Target"], skip: tuple[Rule, ...]
    ) -> tuple[PipelineResult, ...]:
        """Check all releases, then publish each to its repository.

        Raises:
            BuildError: one failed; those before it are published and in the index.
        """
        from gemma3build.publish import publish as publication

        ready = []
        for number, (item, target) in enumerate(zip(results, targets, strict=True), 1):
            with self._stage(Stage.PUBLISH, item.name, number, len(results), shown=False):
                found = publication.prepare_publication(item.verified, target, skip)
                publication.find_changes(found)
                ready.append(found)
        done = list(results)
        for place, found in enumerate(ready):
            with self._stage(Stage.PUBLISH, results[place].name, place + 1, len(results)):
                done[place] = self._publish(results[place], found)
            known, _ = self._write_index(done)
            done = list(known)
        return tuple(done)

    def _make(self, release: PlannedRelease, number: int, total: int) -> PipelineResult:
        config, folder, ran = self._config, self._config.folder / release.name, []
        with self._stage(Stage.BUILD, release.name, number, total):
            if clean_revision() != config.source:
                what = "The source changed while the pipeline ran"
                why = f"it is no longer at commit {config.source.commit[:12]}"
                hint = "Run the same command again; then all releases come from one source."
                raise BuildError(ErrorCode.SOURCE, what, why, hint)
            with self._reporter.steps(len(release.prepared.plan.steps)) as reporter:
                built = self._builder.ensure(release.prepared, folder, config.jobs, reporter)
            if not built.idle:
                ran.append(Stage.BUILD)
        with self._stage(Stage.EVALUATE, release.name, number, total):
            if self._measure(release, folder):
                ran.append(Stage.EVALUATE)
        verified = None
        if config.signer is not None:
            with self._stage(Stage.SIGN, release.name, number, total):
                verified = self._verify(folder)
                wrong = {item.name for item in verified.findings if item.error is not None}
                # Without a check, the signer of an existing signature is unknown.
                if wrong == {SIGNATURE} or (not wrong and config.trust is None):
                    from gemma3build.verify import signature

                    signature.sign(verified, config.signer)
                    verified = None
                    ran.append(Stage.SIGN)
        with self._stage(Stage.VERIFY, release.name, number, total):
            verified = verified or self._verify(folder)
            if verified.error is not None:
                raise verified.error
        return PipelineResult(
            planned=release,
            folder=folder,
            measured=read_release(folder),
            verified=verified,
            signed=self._signed(verified),
            ran=tuple(ran),
        )

    def _measure(self, release: PlannedRelease, folder: Path) -> bool:
        """Measure a release if results are missing; return whether they were."""
        request = dataclasses.replace(
            self._config.measuring,
            checkpoint=release.request.checkpoint,
            tokenizer=release.request.tokenizer,
        )
        found = read_release(folder)
        if is_measured(found.evaluation, request, self._runner):
            return False
        steps, inputs = prepare_evaluation(found, request, self._runner)
        with self._reporter.steps(len(steps)) as reporter:
            evaluate(found, steps, inputs, self._runner, reporter)
        return True

    def _verify(self, folder: Path) -> Verified:
        with self._reporter.reading(total_bytes(folder)) as advance:
            return verify(folder, self._config.trust, advance)

    def _signed(self, verified: Verified) -> Signed | None:
        if SIGNATURE not in verified.folder.sizes:
            return None
        if self._config.identity:
            return Signed(identity=self._config.identity, checked=True)
        from gemma3build.verify import signature

        key = signature.find_key(verified.folder.read(SIGNATURE))
        return Signed(key=key, checked=self._config.trust is not None)

    def _publish(self, item: PipelineResult, found: "Publication") -> PipelineResult:
        from gemma3build.publish import publish as publication

        remote, difference = publication.find_changes(found)
        outcome = publication.publish(found, remote, difference, self._reporter.say)
        published = Published(
            repo=found.target.repo,
            tag=found.target.tag,
            commit=outcome.committed.commit,
            url=outcome.committed.url,
        )
        ran = item.ran if outcome.idle else (*item.ran, Stage.PUBLISH)
        return dataclasses.replace(item, published=published, ran=ran)

    def _write_index(
        self, results: Sequence[PipelineResult]
    ) -> tuple[tuple[PipelineResult, ...], bool]:
        """Add releases to the index."""
        config = self._config
        with release_lock(self._runner, config.folder):
            before = read_index(config.folder)
            if before is None:
                if (config.folder / INDEX).exists():
                    self._reporter.say(f"{INDEX} cannot be read. gemma3build writes it again.")
                before = Index(version=config.version, commit=config.source.commit, releases=())
            results = tuple(
                dataclasses.replace(
                    item, published=item.published or known_publication(before, item.listed.entry)
                )
                for item in results
            )
            ours = {item.name: item.listed for item in results}
            there: dict[str, IndexedRelease] = {}
            for entry in before.releases:
                found = ours.get(entry.name) or self._keep(entry, before)
                if found is not None:
                    there[entry.name] = found
                if entry.published and not (found and found.entry.published):
                    text = f"An earlier {entry.name} is published: {entry.published.url}"
                    self._reporter.say(escape_control_chars(text))
            listed = tuple((there | ours).values())
            return results, write_index(config.folder, config.version, config.source, listed)

    def _keep(self, entry: IndexEntry, before: Index) -> IndexedRelease | None:
        """Return a release of another run for the index, or say why the index drops it."""
        config = self._config
        why = f"it is {before.version} of commit {before.commit[:12]}"
        if (before.version, before.commit) == (config.version, config.source.commit):
            kept = self._kept.get(entry.name)
            if kept is not None and kept.entry == entry:
                return kept
            folder = config.folder / entry.name
            try:
                with self._reporter.reading(total_bytes(folder)) as advance:
                    found = self._kept[entry.name] = reindex_release(entry, folder, advance)
                    return found
            except BuildError as error:
                why = error.why
        self._reporter.say(escape_control_chars(f"{INDEX} no longer has {entry.name}: {why}"))
        return None

    @contextmanager
    def _stage(
        self, stage: Stage, name: str, number: int, total: int, *, shown: bool = True
    ) -> Iterator[None]:
        """Show that a stage begins; add the stage to its errors."""
        if shown:
            self._reporter.begin(stage, name, number, total)
        with error_context(name, stage):
            yield
