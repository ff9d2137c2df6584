"""Which revision of this project runs, and whether it was changed."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gemma3build.engine.container import PACKAGE_DIR


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkout that the package lies in.

    Attributes:
        commit: of git, 40 hex digits.
        dirty: whether tracked files differ from it, or untracked ones lie about.
    """

    commit: str
    dirty: bool


def find_source(package: Path = PACKAGE_DIR) -> Source | None:
    """Return the revision of the checkout; None without git, or for an installed package."""
    root = package.parent
    if _git(root, "ls-files", "--error-unmatch", package.name) is None:
        return None  # a checkout of something else, around an installed package
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    return Source(commit=commit.strip(), dirty=bool(changes.strip()))


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says; None if it fails or is not there."""
    command = ["git", "-C", str(folder), *arguments]
    # Without the lock that `status` takes to write what it has learnt: looking changes nothing.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
