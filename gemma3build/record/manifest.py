"""From the results of a plan to its manifest."""

import json
from collections.abc import Mapping
from pathlib import Path

from gemma3build.core.codec import decode_json, encode
from gemma3build.core.digests import FileDigest, sha256_file
from gemma3build.core.manifest import (
    FORMAT,
    MANIFEST,
    ArtifactRecord,
    CheckpointRecord,
    ImageRecord,
    Manifest,
)
from gemma3build.core.small import read_small
from gemma3build.engine.executor import Done, files
from gemma3build.engine.images import Image
from gemma3build.errors import RequestError
from gemma3build.pins.intent import CONTAINERS_DIR
from gemma3build.plan.planner import CHECK
from gemma3build.plan.step import Plan

SCHEMA_FILE = Path(__file__).parent / "manifest.schema.json"
LEGAL_DIR = Path(__file__).parent / "legal"
LOCAL = "local"


def terms() -> tuple[str, ...]:
    """Return the names of the files that carry Gemma's terms with every release."""
    return tuple(sorted(path.name for path in LEGAL_DIR.iterdir()))


def make_manifest(
    plan: Plan, done: Mapping[str, Done], images: Mapping[str, Image], sources: Mapping[str, str]
) -> Manifest:
    """Return the manifest of a finished plan.

    Args:
        plan: what was run.
        done: its results by name of step.
        images: what the steps ran in, by name.
        sources: digest of the source of each module of ``gemma3build.steps``.
    """
    locked = plan.source.locked
    checkpoint = {file.path: file for file in files(plan.checkpoint, done)}
    checkpoint |= {file.path: file for file in files(plan.tokenizer, done)}
    if plan.chat_template is not None:
        checkpoint |= {file.path: file for file in files(plan.chat_template, done)}
    fetched = locked.files if locked else ()
    return Manifest(
        format=FORMAT,
        checkpoint=CheckpointRecord(
            model=plan.model,
            base_model=plan.base_model,
            source=locked.source if locked else LOCAL,
            revision=locked.revision if locked else "",
            parameters=done[CHECK].entry.facts["parameters"],
            files=tuple(sorted(checkpoint.values())),
            fetched=tuple(sorted(set(fetched) - set(checkpoint.values()))),
        ),
        parameters=encode(plan.parameters),
        schemes={scheme.name: encode(scheme) for scheme in plan.schemes},
        images=tuple(image_record(image) for _, image in sorted(images.items())),
        sources={module: sources[module] for module in sorted({s.module for s in plan.steps})},
        artifacts=artifact_records(plan, done),
        terms=terms(),
    )


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a release.

    Raises:
        RequestError: there is none, or it is of another format.
    """
    path = folder / MANIFEST
    hint = "Name the directory of a release, or make one: nox -s build"
    try:
        manifest = decode_json(Manifest, read_small(path), str(path))
    except OSError as error:
        why = f"{path} cannot be read: {error.strerror}"
        raise RequestError(f"{folder} is not a release", why, hint) from error
    except ValueError as error:
        raise RequestError(f"{folder} is not a release", str(error), hint) from error
    if manifest.format != FORMAT:
        why = f"its manifest has the format {manifest.format!r}, not {FORMAT!r}"
        raise RequestError(f"{folder} cannot be read", why, hint)
    return manifest


def image_record(image: Image) -> ImageRecord:
    """Return the record of an image."""
    requirements = CONTAINERS_DIR / image.name / "requirements.txt"
    return ImageRecord(
        name=image.name,
        digest=image.digest,
        parent=image.parent,
        requirements=sha256_file(requirements) if requirements.is_file() else "",
    )


def artifact_records(plan: Plan, done: Mapping[str, Done]) -> tuple[ArtifactRecord, ...]:
    """Return the records of the artifacts, ordered by name."""
    records = []
    for artifact in plan.artifacts:
        (file,) = files(artifact.source, done)
        records.append(
            ArtifactRecord(
                path=artifact.file_name,
                scheme=artifact.scheme,
                size=file.size,
                sha256=file.sha256,
                facts=done[artifact.source.step].entry.facts,
            )
        )
    return tuple(sorted(records, key=lambda record: record.path))


def artifact_digests(manifest: Manifest) -> tuple[FileDigest, ...]:
    """Return the digests of the artifacts."""
    return tuple(
        FileDigest(path=item.path, size=item.size, sha256=item.sha256)
        for item in manifest.artifacts
    )


def schema() -> dict[str, object]:
    """Return the JSON Schema of manifest.json."""
    loaded: dict[str, object] = json.loads(SCHEMA_FILE.read_bytes())
    return loaded
