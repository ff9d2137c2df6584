"""``provenance.intoto.jsonl``: an in-toto statement about a release, with SLSA provenance v1.

docs/reference/provenance.md describes each field. Everything except ``runDetails.metadata`` is reproducible;
because of that part, SHA256SUMS does not list the file.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gemma3build import __version__
from gemma3build.schema.manifest import Manifest
from gemma3build.schema.packages import Packages
from gemma3build.util.files import sha256_bytes
from gemma3build.util.git import GitRevision
from gemma3build.util.serialize import canonical_json, encode

STATEMENT = "https://in-toto.io/Statement/v1"


def statement(
    subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]
) -> bytes:
    """Return a statement as one line of JSON.

    Args:
        subjects: SHA-256 of each subject, by name.
        predicate_type: URI of the predicate's type.
        predicate: JSON values.

    Raises:
        ValueError: in-toto does not allow it.
    """
    # Slow to import, and an idle build does not need it.
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    found = [
        {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())
    ]
    # Validate only: the library's message turns every integer into a float.
    descriptors = [ResourceDescriptor(**subject).pb for subject in found]
    Statement(descriptors, predicate_type, dict(predicate)).validate()
    content = {
        "_type": STATEMENT,
        "subject": found,
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return canonical_json(content) + b"\n"


PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:gemma3build:build-type:v1"  # docs/reference/provenance.md
BUILDER = "urn:gemma3build:builder:v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRun:
    """When a build ran, in seconds since 1970."""

    started: float
    finished: float


def make_provenance(
    manifest: Manifest,
    sums: Mapping[str, str],
    packages: Mapping[str, Packages],
    *,
    source: GitRevision | None,
    epoch: int,
    run: BuildRun,
) -> bytes:
    """Return the statement as one line of JSON.

    Args:
        manifest: of the release.
        sums: SHA-256 of the files in SHA256SUMS and of SHA256SUMS itself, by name.
        packages: of each image of the manifest, by its name.
        source: the revision that ran, None if it is unknown.
        epoch: SOURCE_DATE_EPOCH of images and containers, in seconds since 1970.
        run: when the build ran.
    """
    # Slow to import, and an idle build does not need it.
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance

    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": external_parameters(manifest),
            "internalParameters": {"sourceDateEpoch": epoch, "stepSources": dict(manifest.sources)},
            "resolvedDependencies": list(dependencies(manifest, packages, source)),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"gemma3build": __version__}},
            "metadata": {
                "invocationId": f"urn:sha256:{sha256_bytes(canonical_json([sums, run.started]))}",
                "startedOn": clock(run.started),
                "finishedOn": clock(run.finished),
            },
        },
    }
    ParseDict(predicate, Provenance())  # rejects a field that SLSA does not define
    return statement(sums, PREDICATE_TYPE, predicate)


def external_parameters(manifest: Manifest) -> dict[str, Any]:
    """Return what the user of the build chose."""
    checkpoint = manifest.checkpoint
    return {
        "name": checkpoint.model,
        "baseModel": checkpoint.base_model,
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "parameters": encode(manifest.parameters),
        "schemes": encode(manifest.schemes),
    }


def dependencies(
    manifest: Manifest, packages: Mapping[str, Packages], source: GitRevision | None
) -> Iterator[dict[str, Any]]:
    """Yield a resource descriptor for everything that the release was made from."""
    if source is not None:
        yield {
            "name": "gemma3build",
            "digest": {"gitCommit": source.commit},
            "annotations": {"dirty": source.dirty},
        }
    for file in manifest.checkpoint.fetched:
        yield {"name": f"fetched/{file.path}", "digest": {"sha256": file.sha256}}
    for file in manifest.checkpoint.files:
        yield {"name": f"checkpoint/{file.path}", "digest": {"sha256": file.sha256}}
    parents = {image.parent for image in manifest.images}
    for parent in sorted(parents):
        kind, _, digest = parent.rpartition(" sha256:")
        yield {"name": f"base/{kind}", "digest": {"sha256": digest}}
    for image in manifest.images:
        digests = {"sha256": image.digest}
        annotations = {"requirements": image.requirements} if image.requirements else {}
        yield {"name": f"image/{image.name}", "digest": digests, "annotations": annotations}
    wheels = {wheel for found in packages.values() for wheel in found.wheels}
    for wheel in sorted(wheels):
        yield {"name": f"wheel/{wheel.path}", "digest": {"sha256": wheel.sha256}}


def clock(seconds: float) -> str:
    """Return a time in UTC to the second, as in RFC 3339."""
    return datetime.fromtimestamp(int(seconds), tz=UTC).isoformat().replace("+00:00", "Z")


def read_revision(path: Path) -> GitRevision | None:
    """Return the revision of gemma3build that a provenance names; None if it is unreadable or names none."""
    try:
        definition = json.loads(path.read_bytes())["predicate"]["buildDefinition"]
        dependencies = definition["resolvedDependencies"]
        (own,) = (item for item in dependencies if item.get("name") == "gemma3build")
        return GitRevision(commit=own["digest"]["gitCommit"], dirty=own["annotations"]["dirty"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
