"""What a commit would change: the files of a release against those of a repository. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma3build.release.checksums import UNLISTED
from gemma3build.util.files import FileDigest, sha256_bytes
from gemma3build.util.serialize import Record

BRANCH = "main"
CARD = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A file to publish.

    Attributes:
        digest: what it must be on the Hub.
        content: its bytes, or the path of the file.
    """

    digest: FileDigest
    content: Path | bytes

    @property
    def blob_id(self) -> str:
        """The name that git gives these bytes: SHA-1 over ``blob``, their size, and them."""
        digest = hashlib.sha1(b"blob %d\0" % self.digest.size, usedforsecurity=False)
        data = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        digest.update(data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """What the Hub states about a file.

    Attributes:
        size: in bytes.
        blob_id: of git's blob; for a large file, of its pointer.
        sha256: of the content of a large file; empty for a small one.
    """

    size: int
    blob_id: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """An open pull request.

    Attributes:
        url: where people look at it.
        author: who opened it.
        revision: what its commits go to.
    """

    url: str
    author: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A repository at a commit, on its branch or in a pull request.

    Attributes:
        repo: ``owner/name``.
        commit: 40 hex digits.
        private: whether only some may see it.
        files: by name.
        tags: to which commit each leads.
        listed: names that its SHA256SUMS lists, if it has one.
        released: whether its manifest.json is that of a release.
        pull_request: that the commit is of; None for the branch.
    """

    repo: str
    commit: str
    private: bool
    files: Mapping[str, RemoteFile]
    tags: Mapping[str, str]
    listed: frozenset[str]
    released: bool
    pull_request: PullRequest | None = None

    @property
    def revision(self) -> str:
        """What a commit on top of this one goes to."""
        return self.pull_request.revision if self.pull_request else BRANCH


class RepoDiff(Record):
    """Names of files by what a commit does to them; ``kept`` are of no release."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether a commit would change nothing."""
        return not (self.added or self.changed or self.removed)


def payloads(folder: Path, digests: Mapping[str, str], card: str) -> tuple[Payload, ...]:
    """Return the files of a release and its card, by name.

    Args:
        folder: the release.
        digests: SHA-256 of its files, as they were verified.
        card: the model card.
    """
    text = card.encode()
    own = FileDigest(path=CARD, size=len(text), sha256=sha256_bytes(text))
    found = [Payload(digest=own, content=text)]
    for name, sha256 in digests.items():
        path = folder / name
        file = FileDigest(path=name, size=path.stat().st_size, sha256=sha256)
        found.append(Payload(digest=file, content=path))
    return tuple(sorted(found, key=lambda item: item.digest.path))


def same(payload: Payload, there: RemoteFile | None) -> bool:
    """Return whether the Hub states of a file what its bytes are."""
    if there is None or there.size != payload.digest.size:
        return False
    if there.sha256:
        return there.sha256 == payload.digest.sha256
    return there.blob_id == payload.blob_id


def diff_release(files: Iterable[Payload], remote: Remote | None) -> RepoDiff:
    """Return what a commit has to do.

    What an earlier release left goes: what its SHA256SUMS lists, and what none can list. Without a
    manifest of ours there was none, and SHA256SUMS is somebody else's.
    """
    there = remote.files if remote else {}
    ours = {item.digest.path: item for item in files}
    left = UNLISTED | remote.listed if remote and remote.released else frozenset()
    removed = (left & there.keys()) - ours.keys()
    unchanged = {name for name, item in ours.items() if same(item, there.get(name))}
    return RepoDiff(
        added=tuple(sorted(ours.keys() - there.keys())),
        changed=tuple(sorted((ours.keys() & there.keys()) - unchanged)),
        unchanged=tuple(sorted(unchanged)),
        removed=tuple(sorted(removed)),
        kept=tuple(sorted(there.keys() - ours.keys() - removed)),
    )


def not_read_back(files: Iterable[Payload], there: Mapping[str, RemoteFile]) -> tuple[str, ...]:
    """Return the names of files of which the Hub states something else."""
    return tuple(item.digest.path for item in files if not same(item, there.get(item.digest.path)))
