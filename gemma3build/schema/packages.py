"""What an image is made of."""

from dataclasses import dataclass

from gemma3build.util.files import FileDigest


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DebianPackage:
    """A package as dpkg has it."""

    name: str
    version: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """What an image is made of.

    Attributes:
        wheels: the files that were installed, ordered by name.
        debian: packages of its base, ordered by name.
    """

    wheels: tuple[FileDigest, ...]
    debian: tuple[DebianPackage, ...]
