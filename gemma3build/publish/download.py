"""Downloads a release from the Hub to verify it: its records, and only the digests of large files."""

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
WHAT = "The published release cannot be downloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialDownload:
    """A published release, downloaded at least in part.

    Attributes:
        folder: its directory, which has the name of the repository.
        remote: the repository at its commit.
        remote_digests: digests of the files that were not downloaded.
        extra: names of files in the repository that are not part of the release.
    """

    folder: Path
    remote: Remote
    remote_digests: tuple[FileDigest, ...]
    extra: tuple[str, ...]

    def __str__(self) -> str:
        """Return a line for the terminal."""
        text = f"{self.remote.repo} at {self.remote.commit}"
        if self.remote_digests:
            text += f"; for {len(self.remote_digests)} files only the SHA-256 that the Hub states"
            text += " (--full downloads them)"
        names = ", ".join(map(truncate, self.extra))
        return text + (f"; not part of the release: {names}" if names else "")

    def fetch_file(self, name: str) -> None:
        """Download a file of which only the digest is known; raises BuildError."""
        reject_large(self.remote, [name], self.folder)
        with hub.explained(WHAT, self.remote.repo):
            path = hub.download(self.remote.repo, self.remote.commit, name, self.folder)
        hub.remove_notes(self.folder)
        if sha256_file(path) != self.remote.files[name].sha256:
            why = f"{name} is not what the Hub states"
            raise release_error(ErrorCode.CHANGED, "The bytes of a file have changed", why)


def parse_address(address: str) -> tuple[str, str]:
    """Return repository and revision of ``hf://owner/name@revision``; raises BuildError."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        why = f"{address!r} is not the address of a release"
        raise BuildError(ErrorCode.REQUEST, WHAT, why, "Try hf://owner/name@revision.")
    hub.check_repo(found["repo"], WHAT)
    return found["repo"], found["revision"] or BRANCH


def download_release(address: str, scratch: Path, *, full: bool) -> PartialDownload:
    """Download the records of a published release, and with ``full`` every file of it.

    Args:
        address: ``hf://owner/name@revision``.
        scratch: an empty directory; the release goes into a subdirectory.
        full: whether to download large files too.

    Raises:
        BuildError: the Hub rejects a request; the files do not fit on the disk (DISK); a record is
            larger than ``LARGEST``, or a file name contains control characters.
    """
    repo, revision = parse_address(address)
    remote = hub.fetch_repo_state(repo, revision, WHAT)
    ours = {name for name in remote.files if is_ours(name, remote)}
    # The Hub's client prints names unescaped while it downloads.
    if odd := [name for name in ours if not name.isprintable()]:
        why = f"{join_names(odd)} not a file name of a release"
        raise release_error(ErrorCode.EXTRA, "There are files that do not belong there", why)
    remote_digests = tuple(
        FileDigest(path=name, size=file.size, sha256=file.sha256)
        for name, file in remote.files.items()
        if name in ours and name.endswith(ARTIFACTS) and file.sha256 and not full
    )
    folder = scratch / repo.partition("/")[2]
    folder.mkdir()
    wanted = sorted(ours - {file.path for file in remote_digests})
    reject_large(remote, wanted, folder)
    large = [name for name in wanted if name.endswith(ARTIFACTS)]
    records = [name for name in wanted if not name.endswith(ARTIFACTS)]
    with hub.explained(WHAT, repo):
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(lambda name: hub.download(repo, remote.commit, name, folder), records))
        # Large files in this thread: Ctrl-C stops it at once, but would wait for a pool.
        for name in large:
            hub.download(repo, remote.commit, name, folder)
    hub.remove_notes(folder)
    extra = tuple(sorted(remote.files.keys() - ours))
    return PartialDownload(folder=folder, remote=remote, remote_digests=remote_digests, extra=extra)


def is_ours(name: str, remote: Remote) -> bool:
    """Return whether a file is part of the release, or looks like it."""
    of_release = name in remote.listed or name in UNLISTED or name.endswith(ARTIFACTS)
    return of_release and "/" not in name


def reject_large(remote: Remote, names: list[str], folder: Path) -> None:
    """Reject records that are too large, and files that do not fit on the disk."""
    texts = [name for name in names if not name.endswith(ARTIFACTS)]
    if large := [name for name in texts if remote.files[name].size > LARGEST]:
        why = f"{join_names(large)} larger than a record can be"
        raise release_error(ErrorCode.CHANGED, "A file is too large", why)
    needed = sum(remote.files[name].size for name in names)
    free = shutil.disk_usage(folder).free
    if needed > free:
        why = f"its files need {gibibytes(needed)}, {gibibytes(free)} are free in {folder.parent}"
        hint = "Set TMPDIR (for a rebuild, GEMMA3BUILD_CACHE) to a directory on a larger disk."
        raise BuildError(ErrorCode.DISK, WHAT, why, hint)
