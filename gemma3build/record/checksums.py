"""SHA256SUMS, in the form that ``sha256sum --check`` reads."""

from collections.abc import Iterable

from gemma3build.core.digests import FileDigest

CHECKSUMS = "SHA256SUMS"


def checksums(files: Iterable[FileDigest]) -> str:
    """Return the text of SHA256SUMS: digest, two spaces, name; ordered by name."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files))
