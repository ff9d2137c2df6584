"""Prepares a publication of a release, finds what it would change, and publishes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule, card, hub
from gemma3build.publish.diff import Payload, Remote, RepoDiff, diff_release, payloads
from gemma3build.publish.rules import (
    AGREEMENT,
    NOTICE,
    Facts,
    Violation,
    reject_publication,
    violations,
)
from gemma3build.release.checksums import PROVENANCE
from gemma3build.release.provenance import read_revision
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.manifest import Manifest
from gemma3build.verify.checks import check_evaluation, read_record
from gemma3build.verify.untrusted import UntrustedFolder
from gemma3build.verify.verify import GATE, Verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a release goes.

    Attributes:
        repo: ``owner/name``.
        private: whether to create a private repository.
        tag: of the commit; empty for none.
        create_pr: whether to open a pull request.
        other_tag: hint of the command for a tag that already exists.
    """

    repo: str
    private: bool = False
    tag: str = ""
    create_pr: bool = False
    other_tag: str = "Give another --tag."


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What to publish.

    Attributes:
        target: where to.
        title: of the commit.
        card: the text of README.md.
        files: all files, including the card.
        skipped: rules that the release does not meet and that you skipped.
    """

    target: Target
    title: str
    card: str
    files: tuple[Payload, ...]
    skipped: tuple[Violation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """The commit, and whether it and its tag already existed (``idle``)."""

    committed: hub.HubCommit
    idle: bool


def prepare_publication(
    verified: Verified, target: Target, skip: tuple[Rule, ...] = (), prose: str = ""
) -> Publication:
    """Return what to publish of a verified release.

    Args:
        verified: the release and its findings.
        target: where it goes.
        skip: rules that it need not meet.
        prose: the publisher's text for the card.

    Raises:
        BuildError: the release does not verify; it does not meet a rule (PUBLICATION).
    """
    # The quality gate is also a rule, which you can skip; you cannot skip other checks.
    for finding in verified.findings:
        if finding.error is not None and finding.name != GATE:
            raise finding.error
    folder = verified.folder
    manifest = read_record(folder)
    facts = find_facts(folder, manifest, verified)
    skipped = reject_publication(violations(facts), skip)
    subject = card.Subject(
        repo=target.repo,
        tag=target.tag,
        manifest=manifest,
        evaluation=facts.evaluation,
        source=facts.source,
        skipped=skipped,
        prose=prose,
    )
    text = card.render_card(subject)
    return Publication(
        target=target,
        title=f"Publish {manifest.checkpoint.model}",
        card=text,
        files=payloads(folder.path, verified.digests, text),
        skipped=skipped,
    )


def find_facts(folder: UntrustedFolder, manifest: Manifest, verified: Verified) -> Facts:
    """Return what the rules check."""
    names = folder.sizes.keys()
    measured = EVALUATION in names
    texts = {AGREEMENT, NOTICE} & names
    return Facts(
        manifest=manifest,
        evaluation=check_evaluation(folder, manifest, verified.digests) if measured else None,
        provenance=PROVENANCE in names,
        source=read_revision(folder.path / PROVENANCE),
        texts={name: folder.read(name).decode(errors="replace") for name in texts},
    )


def find_changes(publication: Publication) -> tuple[Remote | None, RepoDiff]:
    """Return the state of the repository, and what publishing would change.

    If the tag exists, this is the state at its commit, not at the head of the branch. If a pull request
    for this release is open, it is the state of the pull request.

    Raises:
        BuildError: the Hub rejects a request; the repository is public, or the tag exists with other
            content (REQUEST); the pull request is based on an older commit (PULL_REQUEST).
    """
    target = publication.target
    remote = hub.find_repo_state(target.repo, hub.NOT_PUBLISHED)
    tagged = find_tagged(target, remote)
    if tagged is not None:
        difference = diff_release(publication.files, tagged)
        if not difference.nothing:
            raise tag_taken(target, tagged)
        return tagged, difference
    difference = diff_release(publication.files, remote)
    if remote is not None and target.create_pr and not difference.nothing:
        opened = find_pull_request(publication, remote)
        if opened is not None:
            return opened, diff_release(publication.files, opened)
    return remote, difference


def find_tagged(target: Target, remote: Remote | None) -> Remote | None:
    """Return the state at the commit that already has the tag; None if no commit has it.

    Raises:
        BuildError: the Hub rejects a request; the repository is public, or the tagged commit is not a
            release (REQUEST).
    """
    if remote is None:
        return None
    if target.private and not remote.private:
        why = f"{target.repo} already exists and is public"
        hint = "Omit --private, or make the repository private in its settings."
        raise BuildError(ErrorCode.REQUEST, hub.NOT_PUBLISHED, why, hint)
    commit = remote.tags.get(target.tag)
    if commit is None:
        return None
    tagged = remote
    if commit != remote.commit:
        tagged = hub.fetch_repo_state(target.repo, commit, hub.NOT_PUBLISHED)
    if not tagged.released:
        raise tag_taken(target, tagged)
    return tagged


def tag_taken(target: Target, tagged: Remote) -> BuildError:
    """Return the error for a tag that a commit with other content already has."""
    why = f"{target.repo} has a tag {target.tag} already, of {tagged.commit[:12]}"
    return BuildError(ErrorCode.REQUEST, hub.NOT_PUBLISHED, why, target.other_tag)


def find_pull_request(publication: Publication, remote: Remote) -> Remote | None:
    """Return the state of the open pull request to use instead of a new one, if there is one.

    This is a pull request by any user that already has all files, or one of yours, which gets another
    commit.
    """
    opened = []
    for state in hub.pull_requests(remote.repo, publication.title):
        if diff_release(publication.files, state).nothing:
            return state
        opened.append(state)
    name = hub.user(remote.repo) if opened else ""
    yours = [
        (pull, state) for state in opened if (pull := state.pull_request) and pull.author == name
    ]
    for _, state in yours:
        if hub.stands_on(state, remote.commit):
            return state
    for pull, _ in yours:
        why = f"{pull.url} is open and based on an older commit than {remote.commit[:12]}"
        hint = "Merge or close it, then publish again."
        raise BuildError(ErrorCode.PULL_REQUEST, hub.NOT_PUBLISHED, why, hint)
    return None


@contextmanager
def left(what: str, done: hub.HubCommit) -> Iterator[None]:
    """Turn a signal into an error that says that the commit exists, and what is left to do."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        where = done.pull_request or done.url or done.commit
        why = f"it got a signal before {what}"
        hint = "Run the same command again: it does what is left."
        what = f"{where} exists, but publishing is incomplete"
        raise BuildError(ErrorCode.INTERRUPTED, what, why, hint) from stopped


def publish(
    publication: Publication,
    remote: Remote | None,
    difference: RepoDiff,
    say: Callable[[str], None],
) -> PublishResult:
    """Commit, read back and tag; skips what is already done.

    Args:
        publication: what to publish.
        remote: the state of the repository; None if it does not exist.
        difference: what has to change.
        say: called with each warning of the Hub.

    Raises:
        BuildError: something failed; before the commit, nothing has changed.
    """
    target, files = publication.target, publication.files
    if remote is not None and difference.nothing:
        done = hub.committed(remote)
    else:
        hub.require_login(target.repo)
        if remote is None:
            remote = hub.create(target.repo, private=target.private)
            difference = diff_release(files, remote)
        done = hub.commit(
            remote,
            difference,
            files,
            title=publication.title,
            create_pr=target.create_pr,
            say=say,
        )
        what = "its digests were read back" + (" and it was tagged" if target.tag else "")
        with left(what, done):
            hub.read_back(target.repo, done, files)
    tagged = not target.tag or target.tag in remote.tags
    if not tagged:
        hub.require_login(target.repo)
        with left(f"it was tagged {target.tag}", done):
            hub.tag(target.repo, target.tag, done.commit)
    return PublishResult(committed=done, idle=difference.nothing and tagged)
