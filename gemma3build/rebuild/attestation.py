"""What a rebuild attests: an in-toto statement about the files of a release. docs/reference/provenance.md has the form."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma3build.rebuild.compare import Comparison, worst
from gemma3build.release.provenance import statement
from gemma3build.schema.manifest import ImageRecord, Manifest
from gemma3build.util.serialize import Record, encode

PREDICATE = "urn:gemma3build:rebuild:v1"
SUFFIX = ".rebuild.intoto.jsonl"  # after the name of the release, next to which it is written


class RebuilderRecord(Record):
    """Who rebuilt a release, and on what.

    Attributes:
        gemma3build: version of this program.
        cpu: model name of the processor.
        kernel: name and release of the kernel.
        engine: version of the Docker engine.
    """

    gemma3build: str
    cpu: str
    kernel: str
    engine: str


def attestation(
    comparisons: Sequence[Comparison],
    *,
    builder: RebuilderRecord,
    manifest: Manifest,
    images: Sequence[ImageRecord],
    unlike: Sequence[str],
) -> bytes:
    """Return a line of JSON: an in-toto Statement v1 whose subjects are the artifacts of a release.

    Args:
        comparisons: of every file.
        builder: who compared.
        manifest: of the release.
        images: that the rebuild ran in.
        unlike: what the rebuild did with other images or sources than the release, in words.
    """
    artifacts = {item.path for item in manifest.artifacts}
    subjects = {
        item.path: item.released for item in comparisons if item.path in artifacts and item.released
    }
    predicate: Mapping[str, Any] = {
        "builder": encode(builder),
        "verdict": worst(comparisons).value,
        "files": encode(comparisons),
        "images": encode(images),
        "unlike": list(unlike),
    }
    return statement(subjects, PREDICATE, predicate)


def attestation_path(release: Path) -> Path:
    """Return the path of the attestation, next to the release: ``verify`` rejects extra files in it."""
    return release.with_name(release.name + SUFFIX)
