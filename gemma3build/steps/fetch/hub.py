"""Fetch a checkpoint from the Hub at a pinned revision; the one step with a network.

Parameters:
    repo: ``owner/name``.
    revision: a commit, 40 hex digits.
    files: ``FileDigest`` of every file to fetch.
Outputs:
    those files.

The token comes from the environment variable HF_TOKEN, set for this container alone.
"""

import errno
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from httpx2 import HTTPError, TransportError
from huggingface_hub import HfFileMetadata, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (
    build_hf_headers,
    disable_progress_bars,
    hf_raise_for_status,
    http_backoff,
)

from gemma3build.schema.hub_errors import endpoint, moved, refusal
from gemma3build.schema.step import StepError, StepErrorCode, StepRequest
from gemma3build.util.files import FileDigest, digest_file
from gemma3build.util.serialize import decode

AT_A_TIME = 4  # files
WAITS = (1, 2, 4, 8, 16)  # seconds before each further attempt at a file that broke off
RETRIED = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
PARTIAL = ".partial"


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Fetch and check the files.

    What can be refused is asked for first: access, names, and the digests that the Hub states.

    Raises:
        StepError: no access, no such thing, no network, or another digest than the lock says.
    """
    # The client's warnings name signed addresses.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    disable_progress_bars()
    repo, revision = request.parameters["repo"], request.parameters["revision"]
    files = [decode(FileDigest, item, "files") for item in request.parameters["files"]]
    check_repository(repo, revision)
    for file in files:
        try:
            remote_digests = locate(repo, revision, file.path).etag
        except (HTTPError, OSError) as error:
            raise cannot_fetch(repo, file.path, error) from error
        # The etag of a large file is its SHA-256; that of a small one is git's, which says less.
        if (
            remote_digests is not None
            and len(remote_digests) == len(file.sha256)
            and remote_digests != file.sha256
        ):
            raise not_pinned(repo, file, remote_digests)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda file: fetch(repo, revision, file, output), files))
    return {"revision": revision}


def check_repository(repo: str, revision: str) -> None:
    """Require that the repository has this name and this revision.

    Raises:
        StepError: it has not, or the Hub cannot be reached.
    """
    what = f"{repo} cannot be fetched"
    address = f"{endpoint()}/api/models/{repo}/revision/{quote(revision, safe='')}"
    try:
        response = http_backoff("GET", address, headers=build_hf_headers(), follow_redirects=True)
        hf_raise_for_status(response)
        name = response.json()["id"]
    except (HTTPError, OSError, JSONDecodeError) as error:
        raise refusal(what, repo, error, logged_in=get_token() is not None) from error
    if name != repo:
        hint = f"Put {name} into models.toml if it is the one that you trust, then lock it anew."
        raise moved(what, repo, name, hint)


def locate(repo: str, revision: str, name: str) -> HfFileMetadata:
    """Return where a file lies, its size and what the Hub states about its bytes."""
    address = hf_hub_url(repo, name, revision=revision, endpoint=endpoint())
    return get_hf_file_metadata(address, retry_on_errors=True)


def fetch(repo: str, revision: str, file: FileDigest, folder: Path) -> None:
    """Download one file and check it; under its own name it is whole, or not there.

    Raises:
        StepError: it cannot be downloaded, or has another digest.
    """
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + PARTIAL)
    try:
        with partial.open("wb") as stream:
            receive(repo, revision, file, stream)
        found = digest_file(partial, file.path)
        if found != file:
            raise not_pinned(repo, file, found.sha256)
        partial.replace(target)
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise cannot_fetch(repo, file.path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def receive(repo: str, revision: str, file: FileDigest, stream: BinaryIO) -> None:
    """Write a file to ``stream``; what broke off goes on where it did, after a wait."""
    for wait in (*WAITS, None):
        try:
            # Anew for each attempt: the address of a large file is signed for a time.
            place = locate(repo, revision, file.path)
            http_get(
                place.location,
                stream,
                resume_size=stream.tell(),
                headers=headers_for(place.location),
                expected_size=place.size,
            )
        except (HTTPError, OSError) as error:
            if wait is None or not transient(error):
                raise
            time.sleep(wait)
        else:
            return


def headers_for(address: str) -> dict[str, str]:
    """Return the headers of a request; the token goes to the Hub itself and nowhere else."""
    ours = urlsplit(address)[:2] == urlsplit(endpoint())[:2]
    return build_hf_headers(token=None if ours else False)


def transient(error: Exception) -> bool:
    """Return whether an error may be gone after a while."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in RETRIED
    # Where fewer bytes came than the Hub stated, the client raises an OSError without a number.
    return isinstance(error, TransportError) or getattr(error, "errno", None) is None


def cannot_fetch(repo: str, name: str, error: Exception) -> StepError:
    """Return the refusal of a file that cannot be fetched."""
    what = f"{name} of {repo} cannot be fetched"
    return refusal(what, repo, error, logged_in=get_token() is not None)


def not_pinned(repo: str, file: FileDigest, found: str) -> StepError:
    """Return the refusal of a file with another digest."""
    return StepError(
        StepErrorCode.DIGEST,
        f"{file.path} of {repo} is not the pinned one",
        f"its SHA-256 is {found}, the lock says {file.sha256}",
        "Run the same command again; if it stays, the file has changed on the Hub.",
    )
