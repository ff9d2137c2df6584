"""Errors of the Hub as messages for people, in the container and on the host.

This module does not import the Hub's client: the errors of the client carry the response.
"""

import os
import re
from http import HTTPStatus
from json import JSONDecodeError
from typing import Any

from gemma3build.schema.step import StepError, StepErrorCode
from gemma3build.util.text import truncate

ENDPOINT = "https://huggingface.co"
ADDRESS = re.compile(r"\bhttps?://\S+")
LOG_IN = "log in (`hf auth login`), or set HF_TOKEN"
TOKENS = "settings/tokens"  # the page of the Hub where tokens are made


def endpoint() -> str:
    """Return the address of the Hub: HF_ENDPOINT, or the public one."""
    return os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")


def refusal(what: str, repo: str, error: Exception, *, logged_in: bool) -> StepError:
    """Return the error that explains an error of the Hub's client.

    It never has the requested address, since addresses of large files are signed.

    Args:
        what: the failed action, a sentence without its full stop.
        repo: ``owner/name``.
        error: of the client, of its HTTP library, or of the parser of an answer.
        logged_in: whether a token was sent.
    """
    # For a file that cannot be found or reached, the Hub's answer is in the cause of the client's error.
    answers = (getattr(each, "response", None) for each in (error, error.__cause__))
    response = next((answer for answer in answers if answer is not None), None)
    if response is None:
        return unreached(what, error)
    page, tokens = f"{endpoint()}/{repo}", f"{endpoint()}/{TOKENS}"
    match response.headers.get("X-Error-Code", ""), response.status_code:
        case "GatedRepo", _ if not logged_in:
            code, why = StepErrorCode.LOGIN, "the repository is gated and no token was sent"
            hint = f"Accept the terms at {page}, and {LOG_IN}."
        case "GatedRepo", _:
            code = StepErrorCode.ACCESS
            why = "the repository is gated and this account has no access"
            hint = f"Accept the terms at {page} with the account of this token, or use its token."
        case name, HTTPStatus.UNAUTHORIZED if logged_in and name != "RepoNotFound":
            code = StepErrorCode.LOGIN
            why = "the Hub does not accept this token: it has expired, was revoked or is mistyped"
            hint = f"Make a new one at {tokens}, then {LOG_IN}."
        case "RevisionNotFound", _:
            code, why = StepErrorCode.NOT_FOUND, f"{repo} has no such revision"
            hint = f"Look at {page}/commits/main for one."
        case "EntryNotFound", _:
            code, why = StepErrorCode.NOT_FOUND, "there is no such file at that revision"
            hint = f"Look at {page}/tree/main, and run `gemma3build lock` again."
        case _, HTTPStatus.UNAUTHORIZED | HTTPStatus.NOT_FOUND:
            whom = "this account" if logged_in else "those who are not logged in"
            code = StepErrorCode.NOT_FOUND
            why = f"the Hub knows no repository {repo}, or hides it from {whom}"
            hint = "Check the name" + ("." if logged_in else f"; if it is private, {LOG_IN}.")
        case _, HTTPStatus.FORBIDDEN:
            code = StepErrorCode.ACCESS
            why = f"this token has no permission for that: {server_message(response)}"
            hint = f"Make one that has it at {tokens}, then {LOG_IN}."
        case _, status:
            code = StepErrorCode.NETWORK
            why = f"the Hub answered {status}: {server_message(response)}"
            hint = "Wait a little, then run the same command again."
    return StepError(code, what, why, hint)


def unreached(what: str, error: Exception) -> StepError:
    """Return the error of a Hub that gave no answer, or of an answer that is not the Hub's."""
    if isinstance(error, JSONDecodeError):
        why = f"what answers at {endpoint()} does not speak as the Hub does"
        hint = "Check HF_ENDPOINT, and whether the network wants you to log in first."
    else:
        why = f"the Hub cannot be reached: {first_line(str(error)) or type(error).__name__}"
        hint = "Check the network, HF_ENDPOINT and any proxy, then run the same command again."
    return StepError(StepErrorCode.NETWORK, what, why, hint)


def moved(what: str, repo: str, name: str, hint: str) -> StepError:
    """Return the error of a renamed repository; another user may take the old name, so it is not followed."""
    return StepError(StepErrorCode.MOVED, what, f"{repo} is called {name} now", hint)


def server_message(response: Any) -> str:
    """Return the Hub's message for a status, short and printable."""
    return first_line(response.headers.get("X-Error-Message", "")) or "it gave no reason"


def first_line(text: str) -> str:
    """Return the first line of a text, short, without addresses and control characters."""
    return truncate(ADDRESS.sub("(an address)", next(iter(text.strip().splitlines()), "")))
