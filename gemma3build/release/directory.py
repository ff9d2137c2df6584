"""Writes, replaces and removes a release directory, each atomically."""

import ctypes
import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode, os_errors
from gemma3build.release.checksums import CHECKSUMS, PROVENANCE, SIGNATURE, checksums
from gemma3build.release.manifest import LEGAL_DIR, artifact_digests
from gemma3build.release.sbom import SBOM
from gemma3build.schema.evaluation import Evaluation
from gemma3build.schema.manifest import MANIFEST, MANIFEST_FORMAT, REFUSED, Manifest
from gemma3build.util.files import (
    FileDigest,
    atomic_write,
    existing,
    find_partial,
    partial_path,
    read_bounded,
    sha256_bytes,
)
from gemma3build.util.serialize import load_json, pretty_json

AT_FDCWD = -100  # linux/fcntl.h
RENAME_EXCHANGE = 2  # linux/fs.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The contents of a release directory.

    Attributes:
        manifest: content of ``manifest.json``.
        evaluation: content of ``evaluation.json``.
        artifacts: path of each artifact in the cache, by its name in the release.
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
        """The reproducible small files; SHA256SUMS lists them and the artifacts."""
        return release_texts(self.manifest, self.sbom)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of all reproducible files, by name."""
        files = (*artifact_digests(self.manifest), *map(text_digest, self.texts.items()))
        return {file.path: file.sha256 for file in files}


def release_texts(manifest: Manifest, sbom: bytes) -> dict[str, bytes]:
    """Return the reproducible small files of a release, by name."""
    legal = {path.name: path.read_bytes() for path in LEGAL_DIR.iterdir()}
    texts = {MANIFEST: pretty_json(manifest), SBOM: sbom, **legal}
    sums = checksums((*artifact_digests(manifest), *map(text_digest, texts.items())))
    return {**texts, CHECKSUMS: sums.encode()}


def text_digest(item: tuple[str, bytes]) -> FileDigest:
    """Return the digest of a small file, given by name and content."""
    name, text = item
    return FileDigest(path=name, size=len(text), sha256=sha256_bytes(text))


def evaluation_text(evaluation: Evaluation) -> bytes:
    """Return the content of ``evaluation.json``."""
    return pretty_json(evaluation)


def write(release: Release, measured: Mapping[str, bytes], folder: Path) -> None:
    """Write the release to ``folder``, which it replaces atomically.

    Artifacts are hard links into the cache if the file system allows it, so that a release needs no
    disk space; they are read-only, like the files of the cache.

    Args:
        release: its contents.
        measured: files that depend on the machine, by name.
        folder: where to write it.

    Raises:
        BuildError: the disk is full (DISK); the directory cannot be written (OUTPUT).
    """
    staged = partial_path(folder)
    with os_errors(f"The release cannot be written to {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Leftovers of killed builds; the caller holds the lock.
        for partial in find_partial(folder):
            shutil.rmtree(partial, ignore_errors=True)
        try:
            staged.mkdir()
            staged.chmod(0o755)
            for name, path in release.artifacts.items():
                link_or_copy(path, staged / name)
            extra = {PROVENANCE: release.provenance, **measured}
            for name, text in {**release.texts, **extra}.items():
                (staged / name).write_bytes(text)
            _replace(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a release atomically, while you hold its lock; raises BuildError (OUTPUT)."""
    with os_errors(f"{folder} cannot be removed"):
        grave = partial_path(folder)
        grave.mkdir()
        try:
            folder.rename(grave / folder.name)
        finally:
            shutil.rmtree(grave, ignore_errors=True)


def write_measured(measured: Mapping[str, bytes], folder: Path) -> None:
    """Replace the measured files of a release, each atomically; removes the signature, which covers them.

    Raises:
        BuildError: the disk is full (DISK); the directory cannot be written (OUTPUT).
    """
    with os_errors(f"{folder} cannot be written"):
        (folder / SIGNATURE).unlink(missing_ok=True)
        for name, text in measured.items():
            atomic_write(folder / name, text, outside=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Place a file of the cache elsewhere, as a hard link if the file system allows it."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _replace(staged: Path, folder: Path) -> None:
    """Put ``staged`` in the place of ``folder``; ``staged`` then holds the old contents."""
    if not folder.exists():
        staged.rename(folder)
        return
    # renameat2(2) swaps two names in one system call, so that readers always see a release.
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


def check_output(folder: Path) -> None:
    """Reject an output directory that cannot be written, before the long work.

    Also checks the directory next to it, where a release goes that fails the quality gate.

    Raises:
        BuildError: it cannot be written (OUTPUT).
    """
    if folder.name.endswith(REFUSED):
        what = f"{folder} is no place for a release"
        why = f"names that end in {REFUSED} are for releases that failed the quality gate"
        raise BuildError(ErrorCode.OUTPUT, what, why, "Give another --output.")
    check_replaceable(folder)
    check_replaceable(folder.with_name(folder.name + REFUSED))
    above = existing(folder.parent)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = f"{above} is {'not writable' if above.is_dir() else 'not a directory'}"
        hint = "Give another --output, or fix the permissions."
        raise BuildError(ErrorCode.OUTPUT, f"The release cannot be written to {folder}", why, hint)


def check_replaceable(folder: Path) -> None:
    """Require that a release can replace ``folder``: a release or an empty directory, if it exists.

    Raises:
        BuildError: it is something else (OUTPUT).
    """
    if not folder.exists():
        return
    what = f"{folder} is in the way"
    if not folder.is_dir():
        raise BuildError(ErrorCode.OUTPUT, what, "it is not a directory", "Move it away.")
    if any(folder.iterdir()) and not is_release(folder):
        why = "it holds other things than a release, and a build replaces the whole directory"
        hint = "Give another --output, such as a new directory below it."
        raise BuildError(ErrorCode.OUTPUT, what, why, hint)


def is_release(folder: Path) -> bool:
    """Return whether a directory contains the manifest of a release."""
    try:
        found = load_json(read_bounded(folder / MANIFEST))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == MANIFEST_FORMAT
