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
import shutil
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from gemma3build.core.codec import decode
from gemma3build.core.digests import FileDigest, digest_file
from gemma3build.core.step import Refusal, StepError, StepRequest


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Fetch and check the files.

    Raises:
        StepError: no access, no such thing, no network, or another digest than the lock says.
    """
    repo, revision = request.parameters["repo"], request.parameters["revision"]
    for item in request.parameters["files"]:
        file = decode(FileDigest, item, "files")
        download(repo, revision, file.path, output)
        found = digest_file(output / file.path, file.path)
        if found != file:
            raise StepError(
                Refusal.DIGEST,
                f"{file.path} of {repo} is not the pinned one",
                f"its SHA-256 is {found.sha256}, the lock says {file.sha256}",
                "Run the same command again; if it stays, the file has changed on the Hub.",
            )
    # The client's notes about its downloads, which hold clock times.
    shutil.rmtree(output / ".cache", ignore_errors=True)
    return {"revision": revision}


def download(repo: str, revision: str, name: str, folder: Path) -> None:
    """Download one file of a repository into ``folder``."""
    what = f"{name} of {repo} cannot be fetched"
    try:
        hf_hub_download(repo, name, revision=revision, local_dir=folder)
    except GatedRepoError as error:
        why = "the repository is gated and this account has no access"
        hint = f"Accept the terms on the Hub's page of {repo}, then set HF_TOKEN to your token."
        raise StepError(Refusal.ACCESS, what, why, hint) from error
    except RepositoryNotFoundError as error:
        why = "the Hub knows no such repository, or hides it from this account"
        raise StepError(Refusal.ACCESS, what, why, "Check the name, and set HF_TOKEN.") from error
    except (RevisionNotFoundError, EntryNotFoundError) as error:
        # LocalEntryNotFoundError says that the network failed, although it is an entry error.
        if isinstance(error, LocalEntryNotFoundError):
            raise StepError(Refusal.NETWORK, what, str(error), "Check the network.") from error
        why = f"it is not there at {revision}"
        raise StepError(Refusal.ACCESS, what, why, "Resolve the pin anew.") from error
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StepError(Refusal.NETWORK, what, str(error), "Check the network.") from error
