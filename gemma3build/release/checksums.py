"""SHA256SUMS, in the form that ``sha256sum --check`` reads."""

import re
from collections.abc import Iterable

from gemma3build.schema.evaluation import EVALUATION, REPORT
from gemma3build.schema.scheme import NAME
from gemma3build.util.files import FileDigest

CHECKSUMS = "SHA256SUMS"
PROVENANCE = "provenance.intoto.jsonl"
SIGNATURE = "model.sig"
# Files that a release can have and that SHA256SUMS never lists.
UNLISTED = frozenset({CHECKSUMS, EVALUATION, REPORT, PROVENANCE, SIGNATURE})
LINE = re.compile(rf"(?P<sha256>[0-9a-f]{{64}})  (?P<name>{NAME})\n")


def checksums(files: Iterable[FileDigest]) -> str:
    """Return the text of SHA256SUMS: digest, two spaces, name; ordered by name."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files))


def parse_checksums(text: str) -> dict[str, str]:
    """Return the SHA-256 of each file that SHA256SUMS lists, by name.

    Raises:
        ValueError: a line is not formatted as ``checksums`` writes it, or has a name twice, out of order
            or of ``UNLISTED``.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is not a digest, two spaces and a plain name")
        name = match["name"]
        if found and name <= next(reversed(found)):
            raise ValueError(f"line {number} has {name} twice or out of order")
        if name in UNLISTED:
            raise ValueError(f"line {number} has {name}, which it must not list")
        found[name] = match["sha256"]
    if not found:
        raise ValueError("it is empty")
    return found
