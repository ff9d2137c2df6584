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
LONGEST_WAIT = 300.0  # seconds, whatever the Hub names
RETRIED = frozenset({408, 429, 500, 502, 503, 504})  # statuses of a Hub that is busy, or in trouble
T = TypeVar("T")


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Fetch and check the files.

    Access, names, and the digests that the Hub states are checked before anything is downloaded.

    Raises:
        StepError: no access, no such repository, revision or file, no network, or a digest that differs
            from the lock.
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
        # An interrupted download resumes: the client keeps its part below `.cache`.
        ask(what, repo, lambda: hf_hub_download(repo, file.path, local_dir=output, **place))
        if (digest := sha256_file(output / file.path)) != file.sha256:
            (output / file.path).unlink()
            raise not_pinned(repo, file, digest)

    what = f"{repo} cannot be fetched"
    name = ask(what, repo, lambda: HfApi(endpoint()).model_info(repo, revision=revision)).id
    if name != repo:
        hint = f"Put {name} into models.toml if you trust it, then run `gemma3build lock`."
        raise moved(what, repo, name, hint)
    for file in files:
        digest = ask(f"{file.path} of {repo} cannot be fetched", repo, partial(stated, file))
        # The Hub states the SHA-256 of a large file, and git's shorter digest of a small one.
        if digest and len(digest) == len(file.sha256) and digest != file.sha256:
            raise not_pinned(repo, file, digest)
    try:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(fetch, files))
    finally:
        shutil.rmtree(output / ".cache", ignore_errors=True)
    return {"revision": revision}


def ask(what: str, repo: str, call: Callable[[], T]) -> T:
    """Return the result of a call of the client; retry errors that may be temporary."""
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
    """Return the seconds before a retry, by the Hub or else ``wait``; None for a permanent error."""
    # For a file that cannot be reached, the cause has the answer.
    for each in (error, error.__cause__):
        if (response := getattr(each, "response", None)) is not None:
            named = response.headers.get("Retry-After", "")
            again = response.status_code in RETRIED
            return (
                (min(float(named), LONGEST_WAIT) if named.isdecimal() else wait) if again else None
            )
    # If fewer bytes come than the Hub stated, the client raises an OSError without a number.
    broke_off = isinstance(error, OSError) and error.errno is None
    return wait if broke_off or isinstance(error, TransportError) else None


def not_pinned(repo: str, file: FileDigest, digest: str) -> StepError:
    """Return the error of a file with another digest."""
    return StepError(
        StepErrorCode.DIGEST,
        f"{file.path} of {repo} is not the pinned one",
        f"its SHA-256 is {digest}, the lock says {file.sha256}",
        "Run the same command again. If the error stays, the file has changed on the Hub.",
    )
