"""Data files: downloaded once, checked against their pins, kept in the cache."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from gemma3build.core.canonical import canonical_json
from gemma3build.core.digests import sha256_bytes, sha256_file
from gemma3build.core.whole import whole
from gemma3build.engine.store import DATASETS, Store
from gemma3build.errors import DownloadError, from_os_error
from gemma3build.pins.intent import Dataset

TIMEOUT = 60.0  # seconds without a byte


def dataset_files(
    store: Store, name: str, dataset: Dataset, say: Callable[[str], None]
) -> dict[str, Path]:
    """Return where the files of a dataset lie, by name.

    Raises:
        DownloadError: a file cannot be fetched, or is not what the pin says.
        NoSpaceError: the disk is full.
        OutputError: the cache cannot be written.
    """
    folder = store.root / DATASETS / sha256_bytes(canonical_json(dict(dataset.sha256)))
    try:
        with store.lock(folder.name):
            folder.mkdir(parents=True, exist_ok=True)
            for file, digest in dataset.sha256.items():
                path = folder / file
                if not path.is_file() or sha256_file(path) != digest:
                    say(f"Downloading {dataset.summary}: {file}")
                    download(dataset.base + file, path, digest, name)
    except OSError as error:
        raise from_os_error(f"The dataset {name} cannot be kept", error) from error
    return {file: folder / file for file in dataset.sha256}


def download(address: str, path: Path, sha256: str, name: str) -> None:
    """Fetch a file to ``path``, which appears whole or not at all; raises DownloadError, OSError."""
    import httpx2

    digest = hashlib.sha256()
    what = f"The dataset {name} cannot be fetched"
    hint = f"Look at the network, or give a folder with the files: --{name} DIR"
    try:
        with whole(path) as staged:
            with (
                httpx2.stream("GET", address, follow_redirects=True, timeout=TIMEOUT) as answer,
                staged.open("wb") as file,
            ):
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != sha256:
                why = f"{address} has the SHA-256 {digest.hexdigest()}, the pin says {sha256}"
                raise DownloadError(what, why, hint)
    except httpx2.HTTPError as error:
        raise DownloadError(what, f"{address}: {error}", hint) from error
