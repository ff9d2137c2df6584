"""Find the Git revision of this project, and whether it was changed."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGE_DIR = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class GitRevision:
    """The checkout that contains the package.

    Attributes:
        commit: of git, in hex.
        dirty: whether tracked files differ from it, or untracked ones exist.
    """

    commit: str
    dirty: bool


def find_revision(package: Path = PACKAGE_DIR) -> GitRevision | None:
    """Return the revision of the checkout; None without git, or for an installed package."""
    root = package.parent
    if _git(root, "ls-files", "--error-unmatch", "--", package.name) is None:
        return None  # a checkout of something else, around an installed package
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    # Independent of what a user's configuration hides.
    everything = ("--untracked-files=normal", "--ignore-submodules=none")
    changes = _git(root, "status", "--porcelain", *everything)
    if commit is None or changes is None:
        return None
    return GitRevision(commit=commit.decode("ascii").strip(), dirty=bool(changes))


def would_change(path: Path, package: Path = PACKAGE_DIR) -> bool:
    """Return whether a new file there would make the checkout differ from its commit."""
    top = _git(package.parent, "rev-parse", "--show-toplevel")
    if top is None or not path.resolve().is_relative_to(os.fsdecode(top.removesuffix(b"\n"))):
        return False
    return _git(package.parent, "check-ignore", "--", str(path.resolve())) is None


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return what git says, names of files in any encoding; None if it fails or is not there."""
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    # A hook's variables name its own repository, not this one.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    # Without the lock that `status` takes to update the index: reading changes nothing.
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
