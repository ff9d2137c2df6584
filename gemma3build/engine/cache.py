"""The cache: step results on disk, keyed by content.

    steps/<key>/entry.json, log.txt, output/...    finished, read-only
    staging/<key>/...                              being written by the holder of the lock
    failed/<step>-<key>.log                        logs of failed steps
    locks/<key>.lock
    datasets/, wheels/, images/                    downloads, and files made from them

gemma3build writes a result in ``staging`` and moves it into ``steps`` by one rename, so a killed build leaves
nothing that looks finished. An entry has size, modification time and digest of each file: the first two are
compared at every use, the digest before a step reads the file.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gemma3build.errors import BuildError, ErrorCode, os_errors
from gemma3build.schema.step import LOG_FILE, OUTPUT_DIR, REQUEST_FILE, StepResult
from gemma3build.util.files import (
    PARTIAL,
    FileDigest,
    digest_file,
    remove_abandoned,
    sha256_file,
    walk_files,
)
from gemma3build.util.serialize import DecodeError, Record, decode_json, pretty_json

ENTRY_FILE = "entry.json"
FAILED, STAGING = "failed", "staging"
DATASETS, WHEELS, IMAGES = "datasets", "wheels", "images"
DOWNLOADS = (DATASETS, WHEELS, IMAGES)  # what other modules keep in the cache
UNUSABLE = "The cache cannot be used"
SCRATCH = "-"  # in names of scratch directories, never in a key
LOCK_PATIENCE = 0.5  # seconds between two checks whether to give up


class CachedFile(Record):
    """A file of an entry: its digest and modification time, in ns since 1970."""

    digest: FileDigest
    changed: int


class CacheEntry(Record):
    """A finished step.

    Attributes:
        step: name of the step.
        files: its outputs, relative to its output directory.
        facts: metadata that it returned.
        seconds: wall-clock time that it took.
        peak_memory: largest resident set size, in bytes.
    """

    step: str
    files: tuple[CachedFile, ...]
    facts: Mapping[str, Any]
    seconds: float
    peak_memory: int

    @property
    def digests(self) -> tuple[FileDigest, ...]:
        """Digests of the files, ordered by path."""
        return tuple(file.digest for file in self.files)


class Cache:
    """The cache in one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._steps, self._staging = root / "steps", root / STAGING
        self._verified: set[str] = set()

    def output(self, key: str) -> Path:
        """Return the directory with the files of an entry."""
        return self._steps / key / OUTPUT_DIR

    def log(self, key: str) -> Path:
        """Return the log file of an entry."""
        return self._steps / key / LOG_FILE

    def find(self, key: str) -> CacheEntry | None:
        """Return the entry of this key; an entry with a missing or changed file is removed, and then None."""
        try:
            text = (self._steps / key / ENTRY_FILE).read_bytes()
            entry = decode_json(CacheEntry, text, ENTRY_FILE)
        except FileNotFoundError:
            return None
        except DecodeError:
            entry = None
        if entry is None or not all(self._unchanged(key, file) for file in entry.files):
            self.discard(key)
            return None
        return entry

    def verify(self, key: str, entry: CacheEntry) -> bool:
        """Return whether every byte of an entry is unchanged; each is read once per process."""
        # A verified file can still disappear or change while this process runs.
        if key in self._verified and all(self._unchanged(key, file) for file in entry.files):
            return True
        folder = self.output(key)
        try:
            intact = all(
                sha256_file(folder / file.digest.path) == file.digest.sha256 for file in entry.files
            )
        except FileNotFoundError:
            intact = False
        if not intact:
            self.discard(key)
            return False
        self._verified.add(key)
        return True

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from removing entries meanwhile; waits for one that does."""
        return self._hold(fcntl.LOCK_SH)

    @contextlib.contextmanager
    def _hold(self, kind: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            # The lock is on the directory, which needs no file: the cache may be read-only or missing,
            # and a file system may have no locks.
            with contextlib.suppress(OSError):
                self.root.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.root, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, kind)
                except BlockingIOError as error:
                    hint = "Wait for it, or omit --all."
                    what = "The cache cannot be emptied"
                    raise BuildError(ErrorCode.IN_USE, what, "a build is running", hint) from error
            yield

    @contextlib.contextmanager
    def lock(self, key: str, check_stopped: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock of a key; waits for it, and calls ``check_stopped``, which raises to give up."""
        path = self._lock_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        while not lock.is_locked:
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=LOCK_PATIENCE)
            check_stopped()
        try:
            yield
        finally:
            lock.release()

    def staged(self, key: str) -> Path:
        """Return the directory in which the result of a key is written."""
        return self._staging / key

    def stage(self, key: str) -> Path:
        """Return an empty directory for the result of a key; the caller holds its lock."""
        folder = self.staged(key)
        self.unstage(key)
        (folder / OUTPUT_DIR).mkdir(parents=True)
        (folder / "scratch").mkdir()
        return folder

    @contextlib.contextmanager
    def scratch(self, purpose: str) -> Iterator[Path]:
        """Yield an empty directory; ``prune`` removes it if this process is killed.

        Raises:
            BuildError: the disk is full (DISK); the cache cannot be written (OUTPUT).
        """
        folder = self._staging / f"{purpose}{SCRATCH}{secrets.token_hex(8)}"
        with contextlib.ExitStack() as stack:
            with os_errors(UNUSABLE):
                # Locked before it exists, so that no prune takes it for a leftover.
                stack.enter_context(self.lock(folder.name))
                stack.callback(self._lock_path(folder.name).unlink, missing_ok=True)
                folder.mkdir(mode=0o700, parents=True)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder

    def unstage(self, key: str) -> None:
        """Remove the files of an unfinished step; the caller holds its lock."""
        shutil.rmtree(self.staged(key), ignore_errors=True)

    def keep_log(self, key: str, step: str) -> Path | None:
        """Keep the log of a failed step; return its path, or None if it is empty."""
        log = self.staged(key) / LOG_FILE
        if not log.is_file() or not log.stat().st_size:
            return None
        kept = self.root / FAILED / f"{step}-{key[:16]}.log"
        with contextlib.suppress(OSError):  # the disk may be full: the error says so
            kept.parent.mkdir(exist_ok=True)
            log.replace(kept)
            return kept
        return None

    def commit(self, key: str, step: str, result: StepResult) -> CacheEntry:
        """Turn the staged directory of a key into an entry; the caller holds its lock.

        Raises:
            OSError: a file cannot be written.
            ValueError: the step wrote a link or a device.
        """
        staged = self.staged(key)
        files = []
        for name, path in sorted(walk_files(staged / OUTPUT_DIR)):
            # Modes depend on libraries and the umask, so they are not part of a result.
            path.chmod(0o444)
            digest = digest_file(path, name)
            files.append(CachedFile(digest=digest, changed=path.stat().st_mtime_ns))
        entry = CacheEntry(
            step=step,
            files=tuple(files),
            facts=result.facts,
            seconds=result.seconds,
            peak_memory=result.peak_memory,
        )
        for path in staged.iterdir():
            if path.name not in (OUTPUT_DIR, LOG_FILE, REQUEST_FILE):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (staged / ENTRY_FILE).write_bytes(pretty_json(entry))
        self._steps.mkdir(parents=True, exist_ok=True)
        self.discard(key)
        staged.rename(self._steps / key)
        self._verified.add(key)
        return entry

    def discard(self, key: str) -> None:
        """Remove an entry, by a rename first so that no reader sees half of it."""
        folder = self._steps / key
        if folder.exists():
            self._staging.mkdir(parents=True, exist_ok=True)
            grave = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._staging))
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                folder.rename(grave / "discarded")
            shutil.rmtree(grave, ignore_errors=True)

    def once(self, name: str) -> bool:
        """Return True at the first call for a name in this cache, then False."""
        marker = self.root / name
        if marker.exists():
            return False
        with contextlib.suppress(OSError):
            self.root.mkdir(parents=True, exist_ok=True)
            marker.touch()
        return True

    def entries(self) -> dict[str, CacheEntry]:
        """Return all entries by key."""
        keys = sorted(path.name for path in self._steps.iterdir()) if self._steps.is_dir() else []
        return {key: entry for key in keys if (entry := self.find(key)) is not None}

    def prune(self, *, everything: bool) -> int:
        """Remove leftovers of killed builds, or everything; return how many bytes that freed.

        Directories that a running build has locked stay.

        Raises:
            BuildError: a build is running, and everything was to be removed (IN_USE).
        """
        alone = (
            self._hold(fcntl.LOCK_EX | fcntl.LOCK_NB) if everything else contextlib.nullcontext()
        )
        with alone:
            return self._prune(everything=everything)

    def _prune(self, *, everything: bool) -> int:
        before = tree_size(self.root)
        for folder in sorted(self._staging.glob("*")):
            with contextlib.suppress(Timeout), self.try_lock(folder):
                shutil.rmtree(folder, ignore_errors=True)
                if SCRATCH in folder.name:  # its name is never used again
                    self._lock_path(folder.name).unlink(missing_ok=True)
        shutil.rmtree(self.root / FAILED, ignore_errors=True)
        for name in DOWNLOADS:
            remove_abandoned((self.root / name).rglob(f".*{PARTIAL}"))
        if everything:
            for key in self.entries():
                with contextlib.suppress(Timeout), self.try_lock(self.staged(key)):
                    self.discard(key)
            for name in DOWNLOADS:
                shutil.rmtree(self.root / name, ignore_errors=True)
        return before - tree_size(self.root)

    def try_lock(self, path: Path) -> FileLock:
        """Return the lock of a path in ``staging``; entering it raises Timeout if it is held.

        Raises:
            ValueError: the path is not in ``staging`` of this cache.
        """
        key = path.relative_to(self._staging).parts[0].partition(".")[0]
        lock = self._lock_path(key)
        lock.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(lock, timeout=0)

    def _lock_path(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def _unchanged(self, key: str, file: CachedFile) -> bool:
        path = self.output(key) / file.digest.path
        try:
            status = path.stat()
        except OSError:
            return False
        return status.st_size == file.digest.size and (
            status.st_mtime_ns == file.changed or sha256_file(path) == file.digest.sha256
        )


def tree_size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes; files that disappear meanwhile count as none."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += Path(place, name).lstat().st_size
    return size
