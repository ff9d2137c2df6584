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
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TypeVar

from httpx2 import HTTPError, TransportError
from huggingface_hub import HfApi, get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url
from huggingface_hub.utils import disable_progress_bars

from gemma3build.schema.hub_errors import endpoint, moved, refusal
from gemma3build.schema.step import StepError, StepErrorCode, StepRequest
from gemma3build.util.files import FileDigest, sha256_file
from gemma3build.util.serialize import decode

AT_A_TIME = 4  # files
WAITS = (1, 2, 4, 8, 16)  # seconds before each further attempt, where the Hub names no time
RETRIED = frozenset({408, 429, 500, 502, 503, 504})  # statuses of a Hub that is busy, or in trouble
T = TypeVar("T")


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
    place = {"revision": revision, "endpoint": endpoint()}

    def stated(file: FileDigest) -> str | None:
        return get_hf_file_metadata(hf_hub_url(repo, file.path, **place)).etag

    def fetch(file: FileDigest) -> None:
        what = f"{file.path} of {repo} cannot be fetched"
        # What broke off goes on where it did: the client keeps it below `.cache`.
        ask(what, repo, lambda: hf_hub_download(repo, file.path, local_dir=output, **place))
        if (found := sha256_file(output / file.path)) != file.sha256:
            (output / file.path).unlink()
            raise not_pinned(repo, file, found)

    what = f"{repo} cannot be fetched"
    name = ask(what, repo, lambda: HfApi(endpoint()).model_info(repo, revision=revision)).id
    if name != repo:
        hint = f"Put {name} into models.toml if it is the one that you trust, then lock it again."
        raise moved(what, repo, name, hint)
    for file in files:
        found = ask(f"{file.path} of {repo} cannot be fetched", repo, partial(stated, file))
        # What the Hub states of a large file is its SHA-256; of a small one git's digest, which says less.
        if found and len(found) == len(file.sha256) and found != file.sha256:
            raise not_pinned(repo, file, found)
    try:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(fetch, files))
    finally:
        shutil.rmtree(output / ".cache", ignore_errors=True)
    return {"revision": revision}


def ask(what: str, repo: str, call: Callable[[], T]) -> T:
    """Return what a call of the client gives, which is made again where an error may be gone by then."""
    for wait in (*WAITS, None):
        try:
            return call()
        except (HTTPError, OSError, JSONDecodeError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            seconds = None if wait is None else retry_after(error, wait)
            if seconds is None:
                raise refusal(what, repo, error, logged_in=get_token() is not None) from error
            time.sleep(seconds)
    raise AssertionError  # the last wait is None


def retry_after(error: Exception, wait: float) -> float | None:
    """Return in how many seconds it may go better: as the Hub says, or ``wait``; None for never."""
    for each in (
        error,
        error.__cause__,
    ):  # of a file that cannot be reached, the cause has the answer
        if (response := getattr(each, "response", None)) is not None:
            asked = response.headers.get("Retry-After", "")
            again = response.status_code in RETRIED
            return (float(asked) if asked.isdecimal() else wait) if again else None
    # Where fewer bytes came than the Hub stated, the client raises an OSError without a number.
    broke_off = isinstance(error, OSError) and error.errno is None
    return wait if broke_off or isinstance(error, TransportError) else None


def not_pinned(repo: str, file: FileDigest, found: str) -> StepError:
    """Return the refusal of a file with another digest."""
    return StepError(
        StepErrorCode.DIGEST,
        f"{file.path} of {repo} is not the pinned one",
        f"its SHA-256 is {found}, the lock says {file.sha256}",
        "Run the same command again; if it stays, the file has changed on the Hub.",
    )
