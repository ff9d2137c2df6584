"""A release on the Hub, brought here to be looked at: its records, and of large files their digests."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode, release_error
from gemma3build.formats.registry import FORMATS
from gemma3build.publish import hub
from gemma3build.publish.diff import BRANCH, Remote
from gemma3build.release.checksums import UNLISTED
from gemma3build.util.files import LARGEST, FileDigest, sha256_file
from gemma3build.util.text import gibibytes, join_names, truncate

ADDRESS = re.compile(r"hf://(?P<repo>[^@\s]+)(?:@(?P<revision>\S+))?")
ARTIFACTS = tuple(FORMATS)  # suffixes
AT_A_TIME = 4  # records
WHAT = "The published release cannot be looked at"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialDownload:
    """A published release that was brought here.

    Attributes:
        folder: the directory that it lies in, called as the repository is.
        remote: the repository at its commit.
        remote_digests: digests of the files that were left there.
        beside: names of what is in the repository and of no release.
    """

    folder: Path
    remote: Remote
    remote_digests: tuple[FileDigest, ...]
    beside: tuple[str, ...]

    def __str__(self) -> str:
        """Return the line that people read."""
        text = f"{self.remote.repo} at {self.remote.commit}"
        if self.remote_digests:
            text += f"; of {len(self.remote_digests)} files the SHA-256 that the Hub states, not the bytes"
            text += " (--full downloads them)"
        names = ", ".join(map(truncate, self.beside))
        return text + (f"; beside the release: {names}" if names else "")

    def fetch_file(self, name: str) -> None:
        """Download a file that was left there; raises BuildError."""
        refuse_large(self.remote, [name], self.folder)
        with hub.explained(WHAT, self.remote.repo):
            path = hub.download(self.remote.repo, self.remote.commit, name, self.folder)
        hub.remove_notes(self.folder)
        if sha256_file(path) != self.remote.files[name].sha256:
            why = f"{name} is not what the Hub states"
            raise release_error(ErrorCode.CHANGED, "The bytes of a file have changed", why)


def parse(address: str) -> tuple[str, str]:
    """Return repository and revision of ``hf://owner/name@revision``; raises BuildError."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        why = f"{address!r} is no address of a release"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Try hf://owner/name@revision.")
    hub.check_repo(found["repo"], WHAT)
    return found["repo"], found["revision"] or BRANCH


def download_release(address: str, scratch: Path, *, full: bool) -> PartialDownload:
    """Download the records of a published release, and with ``full`` every file of it.

    Args:
        address: ``hf://owner/name@revision``.
        scratch: an empty directory, which gets one for it.
        full: whether large files are downloaded, too.

    Raises:
        BuildError: the Hub refuses; the files do not fit (DISK); a record is larger than any, or a
            name is none of a release.
    """
    repo, revision = parse(address)
    remote = hub.fetch_repo_state(repo, revision, WHAT)
    ours = {name for name in remote.files if is_ours(name, remote)}
    # While a file is downloaded, the Hub's client shows its name as it is.
    if odd := [name for name in ours if not name.isprintable()]:
        why = f"{join_names(odd)} no name of a release's file"
        raise release_error(ErrorCode.EXTRA, "There are files that do not belong there", why)
    remote_digests = tuple(
        FileDigest(path=name, size=file.size, sha256=file.sha256)
        for name, file in remote.files.items()
        if name in ours and name.endswith(ARTIFACTS) and file.sha256 and not full
    )
    folder = scratch / repo.partition("/")[2]
    folder.mkdir()
    wanted = sorted(ours - {file.path for file in remote_digests})
    refuse_large(remote, wanted, folder)
    large = [name for name in wanted if name.endswith(ARTIFACTS)]
    records = [name for name in wanted if not name.endswith(ARTIFACTS)]
    with hub.explained(WHAT, repo):
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(lambda name: hub.download(repo, remote.commit, name, folder), records))
        # Large ones in this thread: Ctrl-C stops it at once, and would wait for those of a pool.
        for name in large:
            hub.download(repo, remote.commit, name, folder)
    hub.remove_notes(folder)
    beside = tuple(sorted(remote.files.keys() - ours))
    return PartialDownload(
        folder=folder, remote=remote, remote_digests=remote_digests, beside=beside
    )


def is_ours(name: str, remote: Remote) -> bool:
    """Return whether a file is of the release, or looks as if it were."""
    of_release = name in remote.listed or name in UNLISTED or name.endswith(ARTIFACTS)
    return of_release and "/" not in name


def refuse_large(remote: Remote, names: list[str], folder: Path) -> None:
    """Refuse records that no release has, and files that do not fit."""
    texts = [name for name in names if not name.endswith(ARTIFACTS)]
    if large := [name for name in texts if remote.files[name].size > LARGEST]:
        why = f"{join_names(large)} too large for what it should be"
        raise release_error(ErrorCode.CHANGED, "A file is too large", why)
    needed = sum(remote.files[name].size for name in names)
    free = shutil.disk_usage(folder).free
    if needed > free:
        why = f"its files have {gibibytes(needed)}, {gibibytes(free)} are free"
        hint = "Set TMPDIR to a larger disk, or for a rebuild GEMMA3BUILD_CACHE."
        raise BuildError(ErrorCode.DISK, WHAT, f"{why} at {folder.parent}", hint)
