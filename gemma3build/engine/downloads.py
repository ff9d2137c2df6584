"""Downloads on the host: gemma3build checks each against its pinned digest and keeps it in the cache.

This interpreter's pip downloads wheels, with your configuration of indexes, mirrors and certificates. The files
of a dataset come from the address in its pin. The source does not matter, because the digest must match.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from gemma3build.engine.cache import DATASETS, WHEELS, Cache
from gemma3build.errors import BuildError, ErrorCode, from_os_error
from gemma3build.pins.config import Dataset, ImagesConfig
from gemma3build.util.files import FileDigest, atomic_file, sha256_blocks, sha256_bytes, sha256_file
from gemma3build.util.serialize import canonical_json

HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")  # in a requirements file
CPU_BUILD = "+cpu"  # in the version of a torch without CUDA, which some indexes lack
CREDENTIALS = re.compile(r"//[^/@\s]+@")  # in the address of an index
MACHINE = "x86_64"
# Older names of manylinux platforms, without the version of glibc: PEP 600.
LEGACY_PLATFORMS = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
OLDEST_GLIBC = 5  # its minor version: that of manylinux1
TIMEOUT = 60.0  # seconds without a byte of a dataset


def locked_wheels(
    cache: Cache, requirements: str, config: ImagesConfig, say: Callable[[str], None]
) -> Path:
    """Return a directory with the wheels of a hash-locked requirements file.

    Args:
        cache: where downloads are kept.
        requirements: text of the file, with the hashes of each wheel.
        config: names the interpreter and platform.
        say: gets a line before a download.

    Raises:
        BuildError: pip could not download them, or a digest differs (DOWNLOAD).
    """
    key = sha256_bytes(requirements.encode())
    hashes = frozenset(HASH.findall(requirements))
    count = requirements.count("==")
    folder = cache.root / WHEELS / key
    with cache.lock(key):
        kept = len(list(folder.iterdir())) if folder.is_dir() else 0
        if folder.is_dir() and kept == count and not _unlisted(folder, hashes):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with cache.scratch("wheels") as scratch:
            say(f"Downloading {count} wheels")
            target = scratch / "wheels"
            pip_download(requirements, target, config)
            if bad := _unlisted(target, hashes):
                why = f"the SHA-256 of {bad[0]} is not in the lockfile"
                hint = (
                    "Run the same command again; if it fails again, check pip's configured index."
                )
                raise BuildError(ErrorCode.DOWNLOAD, "A download is not the locked one", why, hint)
            target.rename(folder)
    return folder


def package_files(
    cache: Cache,
    requirements: tuple[str, ...],
    files: tuple[FileDigest, ...],
    config: ImagesConfig,
    say: Callable[[str], None],
) -> Path:
    """Return a directory with the wheels of a model, as ``locked_wheels`` does.

    Args:
        cache: where downloads are kept.
        requirements: ``name==version`` of each wheel.
        files: digest of each, in the same order.
        config: names the interpreter and platform.
        say: gets a line before a download.

    Raises:
        BuildError: pip could not download them, or a digest differs (DOWNLOAD).
    """
    lines = [
        f"{requirement} --hash=sha256:{file.sha256}\n"
        for requirement, file in zip(requirements, files, strict=True)
    ]
    return locked_wheels(cache, "".join(lines), config, say)


def pip_download(requirements: str, target: Path, config: ImagesConfig) -> None:
    """Run ``pip download``; if it finds no CPU build of torch, again with PyTorch's index.

    Args:
        requirements: text of a requirements file; pip checks its hashes, if it has any.
        target: directory for the wheels.
        config: names the interpreter and platform.

    Raises:
        BuildError: pip failed (DOWNLOAD).
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "requirements.txt"
        file.write_text(requirements, encoding="utf-8")
        command = [sys.executable, "-m", "pip", *_download_arguments(file, target, config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and CPU_BUILD in requirements:
            command.append(f"--extra-index-url={config.torch_index}")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = CREDENTIALS.sub("//", "; ".join(errors[-3:]) or "pip failed")
        hint = "Check the network and pip's configuration, then run the same command again."
        raise BuildError(ErrorCode.DOWNLOAD, "Wheels cannot be downloaded", why, hint)


def dataset_files(
    cache: Cache, name: str, dataset: Dataset, say: Callable[[str], None]
) -> dict[str, Path]:
    """Return the paths of the files of a dataset, by name; ``say`` gets a line before each download.

    Raises:
        BuildError: a file cannot be fetched, or its digest is not the pinned one (DOWNLOAD); the disk is
            full (DISK); the cache cannot be written (OUTPUT).
    """
    folder = cache.root / DATASETS / sha256_bytes(canonical_json(dict(dataset.sha256)))
    try:
        with cache.lock(folder.name):
            folder.mkdir(parents=True, exist_ok=True)
            for file, digest in dataset.sha256.items():
                path = folder / file
                if not path.is_file() or sha256_file(path) != digest:
                    say(f"Downloading {dataset.summary}: {file}")
                    _download(dataset.base + file, path, digest, name)
    except OSError as error:
        raise from_os_error(f"The dataset {name} cannot be kept", error) from error
    return {file: folder / file for file in dataset.sha256}


def _unlisted(folder: Path, hashes: Collection[str]) -> list[str]:
    """Return the names of the files in ``folder`` whose digest is not listed."""
    return [path.name for path in sorted(folder.iterdir()) if sha256_file(path) not in hashes]


def _download_arguments(requirements: Path, target: Path, config: ImagesConfig) -> list[str]:
    """Return pip's arguments to download for the containers on any host."""
    major, minor = config.python_version.split(".")
    return [
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={config.python_version}",
        f"--abi=cp{major}{minor}",
        "--abi=abi3",
        "--abi=none",
        *(f"--platform={tag}" for tag in _platform_tags(config)),
        f"--dest={target}",
        f"--requirement={requirements}",
    ]


def _platform_tags(config: ImagesConfig) -> list[str]:
    """Return the platform tags that the containers' glibc supports, newest first."""
    major, newest = config.glibc
    tags = []
    for minor in range(newest, OLDEST_GLIBC - 1, -1):
        tags.append(f"manylinux_{major}_{minor}_{MACHINE}")
        if legacy := LEGACY_PLATFORMS.get((major, minor)):
            tags.append(f"{legacy}_{MACHINE}")
    return [*tags, f"linux_{MACHINE}"]


def _download(address: str, path: Path, sha256: str, name: str) -> None:
    """Fetch a file to ``path`` atomically; raises BuildError (DOWNLOAD), OSError."""
    import httpx2

    what = f"The dataset {name} cannot be fetched"
    hint = f"Check the network, or give a folder with the files: --{name} DIR"
    try:
        with atomic_file(path) as staged:
            with (
                httpx2.stream("GET", address, follow_redirects=True, timeout=TIMEOUT) as answer,
                staged.open("wb") as file,
            ):
                answer.raise_for_status()
                digest = sha256_blocks(answer.iter_bytes(), file.write)
            if digest != sha256:
                why = f"{address} has the SHA-256 {digest}, the pinned one is {sha256}"
                raise BuildError(ErrorCode.DOWNLOAD, what, why, hint)
    except httpx2.HTTPError as error:
        raise BuildError(ErrorCode.DOWNLOAD, what, f"{address}: {error}", hint) from error
