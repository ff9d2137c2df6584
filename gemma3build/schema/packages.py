"""The packages of an image."""

from gemma3build.util.files import FileDigest
from gemma3build.util.serialize import Record


class DebianPackage(Record, order=True):
    """A package as dpkg has it."""

    name: str
    version: str
    architecture: str


class Packages(Record):
    """The packages of an image.

    Attributes:
        wheels: the files that were installed, ordered by name.
        debian: packages of its base, ordered by name.
    """

    wheels: tuple[FileDigest, ...]
    debian: tuple[DebianPackage, ...]
