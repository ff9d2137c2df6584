"""The preflight of releases: check folders, repositories and free space before any step runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gemma3build.engine import preflight
from gemma3build.engine.runner import Runner
from gemma3build.errors import BuildError, ErrorCode, stopped_error
from gemma3build.plan.build import artifacts_size
from gemma3build.plan.evaluation import expect_evaluation
from gemma3build.plan.graph import identities
from gemma3build.release.directory import check_output, is_release
from gemma3build.report.index import INDEX
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import same_disk
from gemma3build.util.git import would_change
from gemma3build.workflows.release_file import PlannedRelease

if TYPE_CHECKING:
    from gemma3build.publish.publish import Target

PLACE = "{name}"  # in --repo, for the name of each release


@contextmanager
def error_context(name: str, stage: str = "") -> Iterator[None]:
    """Add the release and the stage to an error as a note; turn Ctrl-C into an error."""
    where = f"Where: {name}, {stage}" if stage else f"Where: {name}"
    try:
        yield
    except KeyboardInterrupt as stopped:
        error = stopped_error("The release")
        error.add_note(where)
        raise error from stopped
    except BuildError as error:
        goes_on = ". The same command continues there; finished stages are kept." if stage else ""
        error.add_note(where + goes_on)
        raise


def check_output_paths(folder: Path, releases: Sequence[PlannedRelease]) -> None:
    """Reject folders that releases or their index cannot be written to; raises BuildError."""
    files = (folder / INDEX, *(folder / release.name / MANIFEST for release in releases))
    why = ""
    if is_release(folder):
        why, hint = "it is a release itself", "Use another --output."
    elif any(would_change(path) for path in files):
        why = "it is in the checkout and git does not ignore it: a release would be a change"
        hint = "Use an --output outside of the checkout, or below artifacts."
    if why:
        raise BuildError(ErrorCode.OUTPUT, f"{folder} cannot hold releases", why, hint)
    for release in releases:
        with error_context(release.name):
            check_output(folder / release.name)


def check_capacity(
    runner: Runner, folder: Path, releases: Sequence[PlannedRelease], measured: Sequence[bool]
) -> None:
    """Reject releases that do not fit, one by one or all of them together.

    Args:
        runner: runs their steps.
        folder: of the releases and their index.
        releases: their plans.
        measured: for each release, whether it has all results already.

    Raises:
        BuildError: there is too little memory or disk, or a step needs the Hub offline.
    """
    kept: dict[str, int] = {}
    passing = copies = 0
    for release, is_done in zip(releases, measured, strict=True):
        plan = release.prepared.plan
        measuring = () if is_done else expect_evaluation(plan)
        with error_context(release.name):
            building = runner.fitting(plan.steps)
            missing = (*building, *runner.fitting(measuring))
        shared = identities(plan.steps) | identities(measuring)
        kept |= {shared[step.name]: step.disk for step in missing if not step.fresh}
        # Such a step keeps a few numbers only, so its space is free again for the next release.
        passing = max(passing, sum(step.disk for step in missing if step.fresh))
        if building or not is_release(folder / release.name):
            copies += artifacts_size(plan)
    cache = runner.cache.root
    preflight.check_disk(sum(kept.values()) + passing, cache)
    if not same_disk(folder, cache):  # on one disk, a release is hard links
        preflight.check_disk(copies, folder)


def find_repos(releases: Sequence[PlannedRelease], pattern: str | None) -> tuple[str, ...]:
    """Return the repository of each release; empty for a release that names none.

    ``pattern``, with ``{name}`` for the name of each release, goes before those in a release file.

    Raises:
        BuildError: two releases have the same repository (REQUEST).
    """
    found = tuple(
        release.repo if pattern is None else pattern.replace(PLACE, release.name)
        for release in releases
    )
    named = [repo for repo in found if repo]
    if len(set(named)) < len(named):
        why = "two releases would go to one repository"
        hint = f"Name one for each in a release file, or use --repo 'OWNER/{PLACE}'."
        raise BuildError(ErrorCode.REQUEST, "The releases were not published", why, hint)
    return found


def check_targets(releases: Sequence[PlannedRelease], targets: Sequence["Target"]) -> None:
    """Check the repositories on the Hub before there is anything to publish.

    Raises:
        BuildError: a release has no repository, or one that is public or has the tag (REQUEST); the
            Hub denies access.
    """
    from gemma3build.pins.resolver import refuse_offline
    from gemma3build.publish import hub
    from gemma3build.publish import publish as publication

    for release, target in zip(releases, targets, strict=True):
        with error_context(release.name):
            if not target.repo:
                hint = f"Name it in a release file, or use --repo OWNER/NAME or 'OWNER/{PLACE}'."
                raise BuildError(ErrorCode.REQUEST, hub.NOT_PUBLISHED, "it has no repository", hint)
            hub.check_repo(target.repo, hub.NOT_PUBLISHED)
    refuse_offline(hub.NOT_PUBLISHED)
    for release, target in zip(releases, targets, strict=True):
        with error_context(release.name):
            hub.require_login(target.repo)
            remote = hub.find_repo_state(target.repo, hub.NOT_PUBLISHED)
            publication.find_tagged(target, remote)
