"""What the hub of the tests holds: repositories, commits, pull requests, users; and what goes wrong on demand."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LFS = (".safetensors", ".model", ".tflite", ".task", ".litertlm")
DATE = "2026-01-01T00:00:00.000Z"
MAIN = "refs/heads/main"


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    parent: str
    title: str
    author: str
    files: Mapping[str, bytes]


@dataclass(slots=True)
class Pull:
    """A pull request, whose number is its place in the list, counted from one."""

    title: str
    author: str
    status: str = "open"


@dataclass(slots=True)
class Repo:
    """A repository: every commit, and what branches, tags and pull requests point at."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list["Pull"] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], title: str, author: str, ref: str = MAIN) -> str:
        parent = self.refs.get(ref, "")
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        text = json.dumps([parent, title, author, digests], sort_keys=True)
        found = Commit(hashlib.sha1(text.encode()).hexdigest(), parent, title, author, files)  # noqa: S324
        self.commits[found.id] = found
        self.refs[ref] = found.id
        return found.id

    def find(self, revision: str) -> Commit | None:
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        ids = [self.refs[name] for name in names if name in self.refs]
        return self.commits.get(ids[0] if ids else revision)

    def named(self, prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
            for ref, commit in self.refs.items()
            if ref.startswith(prefix)
        ]


@dataclass(frozen=True, slots=True)
class User:
    """Who has a token: its role, and the gated and private repositories that it may see."""

    name: str
    write: bool = False
    access: frozenset[str] = frozenset()
    expired: bool = False


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next requests whose method and path match."""

    pattern: str
    status: int = 0
    after: int = 0  # bytes of the body before the connection breaks, where there is no status
    reset: bool = False
    body: bytes = b""  # of the answer with that status
    code: str = ""  # of the Hub's errors
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """What the answer is instead; for a renamed repository the message is its new address."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def describe(path: str, data: bytes) -> dict[str, Any]:
    """What a listing says about a file; ``oid`` is that of git's blob."""
    size = {"type": "file", "path": path, "size": len(data)}
    if not path.endswith(LFS):
        return {**size, "oid": blob_id(data)}
    oid = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n"
    lfs = {"oid": oid, "size": len(data), "pointerSize": len(pointer)}
    return {**size, "oid": blob_id(pointer.encode()), "lfs": lfs}


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324
