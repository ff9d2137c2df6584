"""A release directory: it appears whole or not at all, and is replaced whole."""

import ctypes
import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma3build.core.canonical import pretty_json
from gemma3build.core.codec import encode
from gemma3build.core.digests import FileDigest, sha256_bytes
from gemma3build.core.evaluation import EVALUATION, REPORT, Evaluation
from gemma3build.core.manifest import MANIFEST, Manifest
from gemma3build.errors import VerificationError, from_os_error
from gemma3build.record.checks import check_provenance
from gemma3build.record.checksums import CHECKSUMS, PROVENANCE, SIGNATURE, checksums
from gemma3build.record.folder import list_folder
from gemma3build.record.manifest import LEGAL_DIR, artifact_digests
from gemma3build.record.sbom import SBOM

AT_FDCWD = -100  # linux/fcntl.h
RENAME_EXCHANGE = 2  # linux/fs.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a release directory is to hold.

    Attributes:
        manifest: the record.
        evaluation: what was measured.
        artifacts: name in the release to where the file lies in the store.
        sbom: content of ``sbom.cdx.json``.
        provenance: content of ``provenance.intoto.jsonl``.
    """

    manifest: Manifest
    evaluation: Evaluation
    artifacts: Mapping[str, Path]
    sbom: bytes = b""
    provenance: bytes = b""

    @property
    def texts(self) -> dict[str, bytes]:
        """The small files that are the same for everyone; SHA256SUMS covers them and the artifacts."""
        return release_texts(self.manifest, self.sbom)

    @property
    def digests(self) -> dict[str, str]:
        """Name to SHA-256 of all files that are the same for everyone."""
        files = (*artifact_digests(self.manifest), *map(text_digest, self.texts.items()))
        return {file.path: file.sha256 for file in files}


def release_texts(manifest: Manifest, sbom: bytes) -> dict[str, bytes]:
    """Return the small files that a release has for everyone, by name."""
    legal = {path.name: path.read_bytes() for path in LEGAL_DIR.iterdir()}
    texts = {MANIFEST: pretty_json(encode(manifest)), SBOM: sbom, **legal}
    sums = checksums((*artifact_digests(manifest), *map(text_digest, texts.items())))
    return {**texts, CHECKSUMS: sums.encode()}


def text_digest(item: tuple[str, bytes]) -> FileDigest:
    """Return the digest of a small file, given by name and content."""
    name, text = item
    return FileDigest(path=name, size=len(text), sha256=sha256_bytes(text))


def measured_files(manifest: Manifest, evaluation: Evaluation) -> dict[str, bytes]:
    """Return the files that depend on the machine, by name; no checksum covers them.

    The figures come last: where only the report could be written, they are still those of before.
    """
    from gemma3build.record.report import render

    return {REPORT: render(manifest, evaluation), EVALUATION: evaluation_text(evaluation)}


def evaluation_text(evaluation: Evaluation) -> bytes:
    """Return the content of ``evaluation.json``."""
    return pretty_json(encode(evaluation))


def is_written(release: Release, folder: Path) -> bool:
    """Return whether ``folder`` already is this release, by names, sizes and times of change.

    The bill of materials is not made anew for that: it must be what SHA256SUMS says. The provenance must
    be about these files; who ran what, and when, is its own.
    """
    try:
        release = dataclasses.replace(release, sbom=(folder / SBOM).read_bytes())
        texts = {**release.texts, EVALUATION: evaluation_text(release.evaluation)}
        expected = {*texts, *release.artifacts, PROVENANCE, REPORT}
        if {path.name for path in folder.iterdir()} - {SIGNATURE} != expected:
            return False
        if any((folder / name).read_bytes() != text for name, text in texts.items()):
            return False
        check_provenance(list_folder(folder), release.digests, release.digests)
        return all(_same(folder / name, path) for name, path in release.artifacts.items())
    except (OSError, VerificationError):
        return False


def write(release: Release, folder: Path) -> None:
    """Write the release to ``folder``, replacing what is there as a whole.

    Artifacts are hard links into the store where the file system allows it, so that a release costs no
    disk; they are read-only, as the store's files are.

    Raises:
        NoSpaceError: the disk is full.
        OutputError: the directory cannot be written.
    """
    measured = measured_files(release.manifest, release.evaluation)
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = partial_prefix(folder)
    for left in folder.parent.glob(f"{prefix}*"):  # by a killed build; the caller holds the lock
        shutil.rmtree(left, ignore_errors=True)
    staged = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        staged.chmod(0o755)
        for name, path in release.artifacts.items():
            place(path, staged / name)
        own = {PROVENANCE: release.provenance, **measured}
        for name, text in {**release.texts, **own}.items():
            (staged / name).write_bytes(text)
        _replace(staged, folder)
    except OSError as error:
        raise from_os_error(f"The release cannot be written to {folder}", error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a release, whole at once as far as readers can see; the caller holds its lock.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        grave = Path(tempfile.mkdtemp(prefix=partial_prefix(folder), dir=folder.parent))
        try:
            folder.rename(grave / folder.name)
        finally:
            shutil.rmtree(grave, ignore_errors=True)
    except OSError as error:
        raise from_os_error(f"{folder} cannot be removed", error) from error


def write_measured(manifest: Manifest, evaluation: Evaluation, folder: Path) -> None:
    """Replace the measured files of a release, each whole or not at all.

    A signature covers them and would no longer hold: it is removed.

    Raises:
        NoSpaceError: the disk is full.
        OutputError: the directory cannot be written.
    """
    try:
        (folder / SIGNATURE).unlink(missing_ok=True)
        for name, text in measured_files(manifest, evaluation).items():
            write_whole(folder / name, text, folder.with_name(f".{folder.name}.{name}.partial"))
    except OSError as error:
        raise from_os_error(f"{folder} cannot be written", error) from error


def write_whole(path: Path, text: bytes, staged: Path) -> None:
    """Write a file that appears whole or not at all; ``staged`` is its name until then."""
    try:
        staged.write_bytes(text)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def partial_prefix(folder: Path) -> str:
    """Return how the names of directories begin that writing a release may leave beside it."""
    return f".{folder.name}.partial-"


def place(source: Path, target: Path) -> None:
    """Put a file of the store at another place: as a hard link where the file system allows it."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _same(path: Path, source: Path) -> bool:
    if path.samefile(source):
        return True
    here, there = path.stat(), source.stat()
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _replace(staged: Path, folder: Path) -> None:
    """Put ``staged`` in the place of ``folder``; ``staged`` then holds what was there."""
    if not folder.exists():
        staged.rename(folder)
        return
    # One system call that swaps two names, so that no moment has neither: renameat2(2).
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(staged), os.fsencode(folder)
    if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code))
        old = staged.with_name(f"{staged.name}.old")  # a file system that cannot swap
        folder.rename(old)
        staged.rename(folder)
        shutil.rmtree(old)
