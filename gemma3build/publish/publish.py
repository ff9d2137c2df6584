"""From a release to what a repository is to hold, and into it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.publish import Rule, card, hub
from gemma3build.publish.diff import Payload, Remote, RepoDiff, compare, payloads
from gemma3build.publish.rules import AGREEMENT, NOTICE, Facts, Violation, refuse, violations
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
        private: whether a repository that is made is private.
        tag: what the commit is called; empty for nothing.
        create_pr: whether it becomes a pull request.
        other_tag: what to do where the tag is taken, in the words of the command that runs.
    """

    repo: str
    private: bool = False
    tag: str = ""
    create_pr: bool = False
    other_tag: str = "Give another --tag."


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a repository is to hold.

    Attributes:
        target: which one.
        title: of the commit.
        card: the text of README.md.
        files: everything, the card included.
        skipped: rules that do not hold and were skipped.
    """

    target: Target
    title: str
    card: str
    files: tuple[Payload, ...]
    skipped: tuple[Violation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What was published: the commit, and whether it and its tag had been there before."""

    committed: hub.HubCommit
    idle: bool


def prepare(
    verified: Verified, target: Target, skip: tuple[Rule, ...] = (), prose: str = ""
) -> Publication:
    """Return what is to be published of a release that was looked at.

    Args:
        verified: what was found out about it.
        target: where it goes.
        skip: rules that need not hold.
        prose: the publisher's own text for the card.

    Raises:
        BuildError: the release is not what it says; a rule does not hold (PUBLICATION).
    """
    # What the gate said is a rule, too, which can be skipped; nothing else of this can.
    for finding in verified.findings:
        if finding.error is not None and finding.name != GATE:
            raise finding.error
    folder = verified.folder
    manifest = read_record(folder)
    facts = find_facts(folder, manifest, verified)
    skipped = refuse(violations(facts), skip)
    text = card.render(
        card.Subject(
            repo=target.repo,
            tag=target.tag,
            manifest=manifest,
            evaluation=facts.evaluation,
            source=facts.source,
            skipped=skipped,
            prose=prose,
        )
    )
    return Publication(
        target=target,
        title=f"Publish {manifest.checkpoint.model}",
        card=text,
        files=payloads(folder.path, verified.digests, text),
        skipped=skipped,
    )


def find_facts(folder: UntrustedFolder, manifest: Manifest, verified: Verified) -> Facts:
    """Return what the rules look at."""
    there = folder.sizes
    return Facts(
        manifest=manifest,
        evaluation=(
            check_evaluation(folder, manifest, verified.digests) if EVALUATION in there else None
        ),
        provenance=PROVENANCE in there,
        source=read_revision(folder.path / PROVENANCE),
        texts={
            name: folder.read(name).decode(errors="replace")
            for name in (AGREEMENT, NOTICE)
            if name in there
        },
    )


def find_changes(publication: Publication) -> tuple[Remote | None, RepoDiff]:
    """Return what is in the repository, and what publishing would change.

    Where the tag is there, that is what is in its commit, whatever came after that; with a pull request
    of this release open, what is in that.

    Raises:
        BuildError: the Hub refuses; the repository is public, or the tag taken (REQUEST); the pull
            request stands on an older commit (PULL_REQUEST).
    """
    target = publication.target
    remote = hub.find_repo_state(target.repo, hub.NOT_PUBLISHED)
    tagged = find_tagged(target, remote)
    if tagged is not None:
        difference = compare(publication.files, tagged)
        if not difference.nothing:
            raise tag_taken(target, tagged)
        return tagged, difference
    difference = compare(publication.files, remote)
    if remote is not None and target.create_pr and not difference.nothing:
        opened = find_pull_request(publication, remote)
        if opened is not None:
            return opened, compare(publication.files, opened)
    return remote, difference


def find_tagged(target: Target, remote: Remote | None) -> Remote | None:
    """Return what is in the commit that has the tag already; None where none has.

    Args:
        target: where a release goes.
        remote: what is there; None for nothing.

    Raises:
        BuildError: the Hub refuses; the repository is public, or the tag that of something else
            than a release (REQUEST).
    """
    if remote is None:
        return None
    if target.private and not remote.private:
        why = f"{target.repo} is there already, and public"
        raise BuildError(
            ErrorCode.REQUEST,
            hub.NOT_PUBLISHED,
            why,
            "Leave --private away, or change its settings.",
        )
    leads = remote.tags.get(target.tag)
    if leads is None:
        return None
    tagged = (
        remote
        if leads == remote.commit
        else hub.fetch_repo_state(target.repo, leads, hub.NOT_PUBLISHED)
    )
    if not tagged.released:
        raise tag_taken(target, tagged)
    return tagged


def tag_taken(target: Target, tagged: Remote) -> BuildError:
    """Return the error of a tag that a commit with other content has."""
    why = f"{target.repo} has a tag {target.tag} already, of {tagged.commit[:12]}"
    return BuildError(ErrorCode.REQUEST, hub.NOT_PUBLISHED, why, target.other_tag)


def find_pull_request(publication: Publication, remote: Remote) -> Remote | None:
    """Return what is in the pull request that would be opened a second time; None for no such one.

    That is one that has everything already, by whomever, or one of ours, which gets a further commit.
    """
    opened = []
    for there in hub.pull_requests(remote.repo, publication.title):
        if compare(publication.files, there).nothing:
            return there
        opened.append(there)
    name = hub.user(remote.repo) if opened else ""
    ours = [item for item in opened if item.pull_request and item.pull_request.author == name]
    for there in ours:
        if hub.stands_on(there, remote.commit):
            return there
    for there in ours:
        assert there.pull_request is not None  # noqa: S101 - see above
        url = there.pull_request.url
        why = f"{url} is open, and stands on an older commit than {remote.commit[:12]}"
        raise BuildError(
            ErrorCode.PULL_REQUEST, hub.NOT_PUBLISHED, why, "Merge or close it, then publish again."
        )
    return None


@contextmanager
def left(what: str, done: hub.HubCommit) -> Iterator[None]:
    """Say, where a signal comes, that the commit is there, and what was left to do."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        where = done.pull_request or done.url or done.commit
        why = f"it got a signal before {what}"
        hint = "Run the same command again: it compares what is there, and does what is left."
        raise BuildError(
            ErrorCode.INTERRUPTED, f"{where} is there, but not all is done", why, hint
        ) from stopped


def publish(
    publication: Publication,
    remote: Remote | None,
    difference: RepoDiff,
    say: Callable[[str], None],
) -> PublishResult:
    """Commit, read back, tag; what is there already is left as it is.

    Args:
        publication: what the repository is to hold.
        remote: what was in it; None for no repository.
        difference: what has to change.
        say: is told what the Hub remarks.

    Raises:
        BuildError: something failed; before the commit, nothing was changed.
    """
    target, files = publication.target, publication.files
    if remote is not None and difference.nothing:
        done = hub.committed(remote)
    else:
        hub.require_login(target.repo)
        if remote is None:
            remote = hub.create(target.repo, private=target.private)
            difference = compare(files, remote)
        done = hub.commit(
            remote,
            difference,
            files,
            title=publication.title,
            create_pr=target.create_pr,
            say=say,
        )
        with left(
            "its digests were read back" + (" and it was tagged" if target.tag else ""), done
        ):
            hub.read_back(target.repo, done, files)
    tagged = not target.tag or target.tag in remote.tags
    if not tagged:
        hub.require_login(target.repo)
        with left(f"it was tagged {target.tag}", done):
            hub.tag(target.repo, target.tag, done.commit)
    return PublishResult(committed=done, idle=difference.nothing and tagged)
