"""Reads from and writes to the Hub; no other module writes to it."""

import dataclasses
import errno
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from json import JSONDecodeError
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)
from msgspec import structs

from gemma3build.errors import FULL, BuildError, ErrorCode, from_os_error, from_step
from gemma3build.publish.diff import (
    BRANCH,
    Payload,
    PullRequest,
    Remote,
    RemoteFile,
    RepoDiff,
    not_read_back,
)
from gemma3build.release.checksums import CHECKSUMS, parse_checksums
from gemma3build.release.directory import is_release
from gemma3build.schema.hub_errors import LOG_IN, endpoint, first_line, moved, refusal
from gemma3build.schema.manifest import MANIFEST
from gemma3build.schema.step import StepErrorCode, StepFailure
from gemma3build.util.files import LARGEST, read_bounded
from gemma3build.util.text import join_names, truncate

NOT_PUBLISHED = "The release was not published"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubCommit:
    """A commit on the Hub.

    Attributes:
        commit: 40 hex digits.
        url: where people look at it.
        pull_request: its address, if it is one.
    """

    commit: str
    url: str
    pull_request: str = ""


@contextmanager
def explained(what: str, repo: str) -> Iterator[None]:
    """Turn an error of the Hub's client into one of this tree."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:  # what Xet's client raises
        if os.strerror(errno.ENOSPC) in str(error):
            raise from_os_error(what, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        why = f"Xet failed: {first_line(str(error))}"
        hint = "Run it again, or set HF_HUB_DISABLE_XET=1 to use plain HTTP."
        failure = StepFailure(code=StepErrorCode.NETWORK.value, what=what, why=why, hint=hint)
        raise from_step(failure) from error
    except (HTTPError, OSError, JSONDecodeError) as error:
        # Of the disk, not of the network; what fails to be written has no name in the error.
        if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
            raise from_os_error(what, error) from error
        failure = refusal(what, repo, error, logged_in=get_token() is not None).failure
        if failure.code == StepErrorCode.NETWORK.value and is_final(error):
            hint = "A retry would fail too: fix what the message names."
            failure = structs.replace(failure, hint=hint)
        raise from_step(failure) from error


def is_final(error: Exception) -> bool:
    """Return whether the Hub rejected a request that it would also reject later."""
    if not isinstance(error, HfHubHTTPError):
        return False
    later = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return error.response.is_client_error and error.response.status_code not in later


def check_repo(repo: str, what: str) -> None:
    """Require the form of a repository's name; raises BuildError (REQUEST)."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BuildError(
            ErrorCode.REQUEST, what, truncate(first_line(str(error))), "Try owner/name."
        ) from error
    if "/" not in repo:
        raise BuildError(ErrorCode.REQUEST, what, f"{repo} names no owner", "Try owner/name.")


def require_login(repo: str) -> None:
    """Require a token; whether it may write is for the Hub to say; raises BuildError."""
    if get_token() is None:
        why = f"to write to {repo} takes a token, and there is none"
        failure = StepFailure(
            code=StepErrorCode.LOGIN.value, what=NOT_PUBLISHED, why=why, hint=f"Please {LOG_IN}."
        )
        raise from_step(failure)


def fetch_repo_state(repo: str, revision: str, what: str) -> Remote:
    """Return what the Hub states about a repository at a revision; raises BuildError."""
    api = HfApi(endpoint())
    with explained(what, repo):
        info = api.model_info(repo, revision=revision)
        if info.id != repo:
            raise from_step(moved(what, repo, info.id, f"Ask for {info.id}.").failure)
        commit = str(info.sha)
        files = remote_files(api, repo, commit)
        tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags}
        small = {name for name, file in files.items() if file.size <= LARGEST}
        with tempfile.TemporaryDirectory() as folder:
            for name in {CHECKSUMS, MANIFEST} & small:
                download(repo, commit, name, Path(folder))
            names = listed_names(Path(folder, CHECKSUMS)) if CHECKSUMS in small else frozenset()
            released = is_release(Path(folder))
    return Remote(
        repo=repo,
        commit=commit,
        private=bool(info.private),
        files=files,
        tags=tags,
        listed=names,
        released=released,
    )


def find_repo_state(repo: str, what: str) -> Remote | None:
    """Return what the Hub states about a repository; None where it knows none, or hides it."""
    try:
        return fetch_repo_state(repo, BRANCH, what)
    except BuildError as error:
        if error.code is ErrorCode.NOT_FOUND and isinstance(
            error.__cause__, RepositoryNotFoundError
        ):
            return None
        raise


def pull_requests(repo: str, title: str) -> Iterator[Remote]:
    """Yield what is in each open pull request of this title, newest first; raises BuildError."""
    with explained(NOT_PUBLISHED, repo):
        found = HfApi(endpoint()).get_repo_discussions(
            repo, discussion_type="pull_request", discussion_status="open"
        )
        opened = [
            PullRequest(url=item.url, author=item.author, revision=str(item.git_reference))
            for item in sorted(found, key=lambda item: item.num, reverse=True)
            if item.title == title
        ]
    for item in opened:
        there = fetch_repo_state(repo, item.revision, NOT_PUBLISHED)
        yield dataclasses.replace(there, pull_request=item)


def user(repo: str) -> str:
    """Return whose token it is; empty without one; raises BuildError."""
    if get_token() is None:
        return ""
    with explained(NOT_PUBLISHED, repo):
        return str(HfApi(endpoint()).whoami()["name"])


def stands_on(remote: Remote, commit_id: str) -> bool:
    """Return whether a commit is among those that this one goes back to; raises BuildError."""
    with explained(NOT_PUBLISHED, remote.repo):
        history = HfApi(endpoint()).list_repo_commits(remote.repo, revision=remote.commit)
    return any(item.commit_id == commit_id for item in history)


def remote_files(api: HfApi, repo: str, commit: str) -> dict[str, RemoteFile]:
    """Return the files of a repository at a commit, by name."""
    return {
        item.path: RemoteFile(
            size=item.size, blob_id=item.blob_id, sha256=item.lfs.sha256 if item.lfs else ""
        )
        for item in api.list_repo_tree(repo, revision=commit, recursive=True)
        if isinstance(item, RepoFile)
    }


def download(repo: str, commit: str, name: str, folder: Path) -> Path:
    """Download a file into a folder; call ``remove_notes`` afterwards."""
    return Path(hf_hub_download(repo, name, revision=commit, local_dir=folder, endpoint=endpoint()))


def remove_notes(folder: Path) -> None:
    """Remove the client's notes about its downloads."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def listed_names(path: Path) -> frozenset[str]:
    """Return the names that a SHA256SUMS lists; none for one that is not a release's."""
    try:
        return frozenset(parse_checksums(read_bounded(path).decode("ascii")))
    except ValueError:
        return frozenset()


def create(repo: str, *, private: bool) -> Remote:
    """Make a repository and return what is in it then; raises BuildError."""
    with explained(NOT_PUBLISHED, repo):
        HfApi(endpoint()).create_repo(repo, private=private or None)
    return fetch_repo_state(repo, BRANCH, NOT_PUBLISHED)


def commit(
    remote: Remote,
    difference: RepoDiff,
    files: Sequence[Payload],
    *,
    title: str,
    create_pr: bool,
    say: Callable[[str], None],
) -> HubCommit:
    """Write all changes in one commit on top of ``remote``, or nothing.

    Args:
        remote: the expected state; for a pull request the commit goes there.
        difference: what has to change.
        files: all files.
        title: of the commit.
        create_pr: whether to open a pull request.
        say: called with each warning of the Hub.

    Raises:
        BuildError: the branch has moved since (BRANCH_MOVED); the Hub rejects the request, or the front
            matter of the card (PUBLICATION).
    """
    contents = {item.digest.path: item.content for item in files}
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(
            CommitOperationAdd(name, source if isinstance(source, bytes) else str(source))
            for name in (*difference.added, *difference.changed)
            for source in (contents[name],)
        ),
        *(CommitOperationDelete(name) for name in difference.removed),
    ]
    api = HfApi(endpoint())
    with explained(NOT_PUBLISHED, remote.repo), warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        try:
            done = api.create_commit(
                remote.repo,
                operations,
                commit_message=title,
                revision=remote.revision,
                parent_commit=remote.commit,
                create_pr=create_pr and remote.pull_request is None,
            )
        except HfHubHTTPError as error:
            if error.response.status_code != HTTPStatus.PRECONDITION_FAILED:
                raise
            raise lost_race(api, remote) from error
        except JSONDecodeError:  # a ValueError, too, of an answer that is not the Hub's
            raise
        except ValueError as error:  # the client raises it for invalid front matter
            why = truncate(" ".join(str(error).split()))
            raise BuildError(ErrorCode.PUBLICATION, NOT_PUBLISHED, why, "Fix the card.") from error
    for warning in noted:
        say(truncate(" ".join(str(warning.message).split())))
    opened = remote.pull_request.url if remote.pull_request else done.pr_url or ""
    return HubCommit(commit=done.oid, url=done.commit_url, pull_request=opened)


def lost_race(api: HfApi, remote: Remote) -> BuildError:
    """Return the error of a branch that moved, with who moved it as the Hub says."""
    last = api.list_repo_commits(remote.repo, revision=remote.revision)[0]
    who = ", ".join(last.authors) or "someone"
    why = f"{who} moved {remote.revision} meanwhile: {last.commit_id[:12]}, {last.title!r}"
    hint = "Look at that commit, then publish again; yours goes on top. Nothing was changed."
    return BuildError(ErrorCode.BRANCH_MOVED, NOT_PUBLISHED, truncate(why), hint)


def read_back(repo: str, done: HubCommit, files: Sequence[Payload]) -> None:
    """Require that the Hub states of every file what was uploaded; raises BuildError."""
    what = f"What was published to {repo} could not be read back"
    with explained(what, repo):
        there = remote_files(HfApi(endpoint()), repo, done.commit)
    if wrong := not_read_back(files, there):
        what = f"{repo} does not hold what was uploaded"
        why = f"{join_names(wrong)} not what was uploaded, says the Hub of {done.commit[:12]}"
        hint = f"Look at {done.url}, and revert it; do not tell anyone to use it."
        raise BuildError(ErrorCode.READ_BACK, what, why, hint)


def committed(remote: Remote) -> HubCommit:
    """Return the commit that was looked at, as one that has everything already."""
    url = f"{endpoint()}/{remote.repo}/commit/{remote.commit}"
    opened = remote.pull_request.url if remote.pull_request else ""
    return HubCommit(commit=remote.commit, url=url, pull_request=opened)


def set_output(*, progress: bool) -> None:
    """Say whether the client shows how far it is; its warnings name signed addresses, and are not shown."""
    (enable_progress_bars if progress else disable_progress_bars)()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def tag(repo: str, name: str, commit_id: str) -> None:
    """Give a commit a tag; raises BuildError."""
    with explained(f"{name} could not be made a tag of {commit_id[:12]}", repo):
        HfApi(endpoint()).create_tag(repo, tag=name, revision=commit_id)
