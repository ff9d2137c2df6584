"""The record of a release: its files and their inputs.

No field depends on when, where or by whom a release was built: two builds of one request give the same
manifest, byte for byte. Its JSON Schema, for other programs, comes from these types.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gemma3build.schema.scheme import NAME, Scheme
from gemma3build.util.files import FileDigest, Sha256
from gemma3build.util.serialize import Record, matching

MANIFEST_FORMAT: Literal["gemma3build.manifest/1"] = "gemma3build.manifest/1"
MANIFEST = "manifest.json"
REFUSED = ".refused"  # after the name of the directory of a release that is not faithful
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# How a docstring describes the fields of its class.
ATTRIBUTES, ATTRIBUTE = "\n\nAttributes:\n", r"^ {4}(\w+): (.+(?:\n {5,}.+)*)"
FLAT = re.compile(r"(?!\.{1,2}\Z)[^/\\]+")

FileName = Annotated[str, matching(NAME)]
Positive = Annotated[int, Meta(ge=1)]


class CheckpointRecord(Record):
    """What was built.

    Attributes:
        model: name of the release.
        base_model: name on the Hub of the model that it derives from, empty if unknown.
        source: ``owner/name`` on the Hub, ``packages``, or ``local``.
        revision: commit, or digest of the GGUF file; empty for a local directory.
        parameters: number of weights.
        files: the checkpoint as it was exported.
        fetched: the files that it was made from, if they are others.
    """

    model: Annotated[str, Meta(min_length=1)]
    base_model: str
    source: Annotated[str, Meta(min_length=1)]
    revision: Annotated[str, matching("([0-9a-f]{40}|[0-9a-f]{64})?")]
    parameters: Positive
    files: Annotated[tuple[FileDigest, ...], Meta(min_length=1)]
    fetched: tuple[FileDigest, ...]

    def __post_init__(self) -> None:
        """Reject files that are in another directory."""
        for file in (*self.files, *self.fetched):
            if not FLAT.fullmatch(file.path):
                raise ValueError(f"{file.path!r} is not the name of a file")


class Parameters(Record):
    """What a person can choose about the graph.

    Attributes:
        prefill_seq_lens: lengths of the prefill signatures, in tokens.
        kv_cache_max_len: length of the key-value cache, in tokens.
        mask_as_input: whether the caller passes the attention mask.
        lean: whether the export keeps constants out of the MLIR module; see ``steps.convert.export``.
    """

    prefill_seq_lens: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    kv_cache_max_len: Annotated[int, Meta(ge=2)]
    mask_as_input: bool = True
    lean: bool = True


class ImageRecord(Record):
    """An image that a step ran in.

    Attributes:
        name: a directory of ``containers/``.
        digest: SHA-256 over layers and environment, the same in every engine.
        parent: kind and digest of what its base was made from.
        requirements: SHA-256 of its locked requirements; empty for none.
    """

    name: str
    digest: Sha256
    parent: Annotated[str, matching("(debian|registry) sha256:[0-9a-f]{64}")]
    requirements: Annotated[str, matching("([0-9a-f]{64})?")]


class ArtifactRecord(Record):
    """A file of the release.

    Attributes:
        path: its name.
        scheme: name of its scheme.
        size: in bytes.
        sha256: its digest.
        facts: the outputs of the step that wrote it, such as the digests of a bundle's members.
    """

    path: FileName
    scheme: str
    size: Positive
    sha256: Sha256
    facts: Mapping[str, Any]


class Manifest(Record):
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

    format: Literal["gemma3build.manifest/1"]
    checkpoint: CheckpointRecord
    parameters: Parameters
    schemes: Annotated[Mapping[str, Scheme], Meta(min_length=1)]
    images: Annotated[tuple[ImageRecord, ...], Meta(min_length=1)]
    sources: Mapping[str, Sha256]
    artifacts: Annotated[tuple[ArtifactRecord, ...], Meta(min_length=1)]
    terms: Annotated[tuple[FileName, ...], Meta(min_length=1)]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of manifest.json, with descriptions from the docstrings above."""
    generated = msgspec.json.schema(Manifest)
    for kind in generated["$defs"].values():
        kind["description"], _, fields = inspect.cleandoc(kind["description"]).partition(ATTRIBUTES)
        for name, text in re.findall(ATTRIBUTE, fields, re.MULTILINE):
            kind["properties"][name]["description"] = " ".join(text.split())
    return {"$schema": SCHEMA_DIALECT, **generated}
