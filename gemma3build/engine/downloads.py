"""Downloads on the host, each checked against its pinned digest and kept in the cache.

Wheels come by this interpreter's pip, which follows the machine's own configuration of indexes, mirrors and
certificates; the files of a dataset from the address in its pin. The digest decides what is used, so it does
not matter from where it comes.
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
CPU_BUILD = "+cpu"  # in the version of a torch without CUDA, which not every index has
CREDENTIALS = re.compile(r"//[^/@\s]+@")  # in the address of an index
MACHINE = "x86_64"
# Names of manylinux platforms before they carried the version of glibc: PEP 600.
LEGACY_PLATFORMS = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
OLDEST_GLIBC = 5  # its minor version: that of manylinux1
TIMEOUT = 60.0  # seconds without a byte of a dataset


def locked_wheels(
    cache: Cache, requirements: str, config: ImagesConfig, say: Callable[[str], None]
) -> Path:
    """Return a directory with the wheels of a hash-locked requirements file.

    Args:
        cache: where downloads are kept.
        requirements: text of the file, every line with its hashes.
        config: for which interpreter and platform.
        say: is given a line when something has to be downloaded.

    Raises:
        BuildError: pip could not download them, or brought something else (DOWNLOAD).
    """
    key = sha256_bytes(requirements.encode())
    hashes = frozenset(HASH.findall(requirements))
    count = requirements.count("==")
    folder = cache.root / WHEELS / key
    with cache.lock(key):
        if (
            folder.is_dir()
            and len(list(folder.iterdir())) == count
            and not _unlisted(folder, hashes)
        ):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with cache.scratch("wheels") as scratch:
            say(f"Downloading {count} wheels")
            target = scratch / "wheels"
            pip_download(requirements, target, config)
            if bad := _unlisted(target, hashes):
                raise BuildError(
                    ErrorCode.DOWNLOAD,
                    "A download is not the locked one",
                    f"the SHA-256 of {bad[0]} is not in the lock",
                    "Run the same command again; if the error stays, the index has other files than the lock.",
                )
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
        config: for which interpreter and platform.
        say: is given a line when something has to be downloaded.

    Raises:
        BuildError: pip could not download them, or brought something else (DOWNLOAD).
    """
    lines = [
        f"{requirement} --hash=sha256:{file.sha256}\n"
        for requirement, file in zip(requirements, files, strict=True)
    ]
    return locked_wheels(cache, "".join(lines), config, say)


def pip_download(requirements: str, target: Path, config: ImagesConfig) -> None:
    """Run ``pip download``; if it finds no CPU build of torch, again with PyTorch's index.

    Args:
        requirements: text of a requirements file; pip checks the hashes that it has.
        target: directory for the wheels.
        config: for which interpreter and platform.

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
        raise BuildError(
            ErrorCode.DOWNLOAD,
            "Wheels cannot be downloaded",
            CREDENTIALS.sub("//", "; ".join(errors[-3:]) or "pip failed"),
            "Check the network and pip's configuration, then run the same command again.",
        )


def dataset_files(
    cache: Cache, name: str, dataset: Dataset, say: Callable[[str], None]
) -> dict[str, Path]:
    """Return where the files of a dataset are, by name.

    Args:
        cache: where downloads are kept.
        name: of the dataset.
        dataset: its pin.
        say: is given a line for each file that has to be downloaded.

    Raises:
        BuildError: a file cannot be fetched, or is not what the pin says (DOWNLOAD); the disk is
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
    """Return pip's arguments to download for the containers, whatever the host is."""
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
    """Return the platform tags that the containers' glibc can run, newest first."""
    major, newest = config.glibc
    tags = []
    for minor in range(newest, OLDEST_GLIBC - 1, -1):
        tags.append(f"manylinux_{major}_{minor}_{MACHINE}")
        if legacy := LEGACY_PLATFORMS.get((major, minor)):
            tags.append(f"{legacy}_{MACHINE}")
    return [*tags, f"linux_{MACHINE}"]


def _download(address: str, path: Path, sha256: str, name: str) -> None:
    """Fetch a file to ``path``, which appears whole or not at all; raises BuildError (DOWNLOAD), OSError."""
    import httpx2

    what = f"The dataset {name} cannot be fetched"
    hint = f"Look at the network, or give a folder with the files: --{name} DIR"
    try:
        with atomic_file(path) as staged:
            with (
                httpx2.stream("GET", address, follow_redirects=True, timeout=TIMEOUT) as answer,
                staged.open("wb") as file,
            ):
                answer.raise_for_status()
                digest = sha256_blocks(answer.iter_bytes(), file.write)
            if digest != sha256:
                why = f"{address} has the SHA-256 {digest}, the pin says {sha256}"
                raise BuildError(ErrorCode.DOWNLOAD, what, why, hint)
    except httpx2.HTTPError as error:
        raise BuildError(ErrorCode.DOWNLOAD, what, f"{address}: {error}", hint) from error
