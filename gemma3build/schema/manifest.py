"""The record of a release: what is in it and what it was made from.

Nothing here depends on when, where or by whom a release was built: two builds of one request give one
manifest, byte for byte. ``record/manifest.schema.json`` describes the file for other programs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemma3build.util.files import FileDigest

MANIFEST_FORMAT = "gemma3build.manifest/1"
MANIFEST = "manifest.json"
REFUSED = ".refused"  # after the name of the directory of a release that is not faithful


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """What was built.

    Attributes:
        model: name of the release.
        base_model: name on the Hub of what it derives from, empty if unknown.
        source: ``owner/name`` on the Hub, ``packages``, or ``local``.
        revision: commit, or digest of the GGUF file; empty for a local directory.
        parameters: number of weights.
        files: the checkpoint as it was exported.
        fetched: what it was made from, where that is something else.
    """

    model: str
    base_model: str
    source: str
    revision: str
    parameters: int
    files: tuple[FileDigest, ...]
    fetched: tuple[FileDigest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image that a step ran in.

    Attributes:
        name: a directory of ``containers/``.
        digest: SHA-256 over layers and environment, the same in every engine.
        parent: kind and digest of what its base was made from.
        requirements: SHA-256 of its locked requirements; empty for none.
    """

    name: str
    digest: str
    parent: str
    requirements: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """A file of the release.

    Attributes:
        path: its name.
        scheme: name of its scheme.
        size: in bytes.
        sha256: its digest.
        facts: what the step that wrote it found out, such as the digests of a bundle's members.
    """

    path: str
    scheme: str
    size: int
    sha256: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record of a release.

    Attributes:
        format: names this format and its version.
        checkpoint: what was built.
        parameters: what a person chose about the graph.
        schemes: what each scheme does, by name.
        images: what the steps ran in.
        sources: digest of the source of each kind of step.
        artifacts: the files of the release.
        terms: names of the files that carry Gemma's terms.
    """

    format: str
    checkpoint: CheckpointRecord
    parameters: Mapping[str, Any]
    schemes: Mapping[str, Any]
    images: tuple[ImageRecord, ...]
    sources: Mapping[str, str]
    artifacts: tuple[ArtifactRecord, ...]
    terms: tuple[str, ...]
