"""Make the records of a release from the results of steps; find out whether it is written already."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from gemma3build.engine.cache import Cache
from gemma3build.engine.executor import FinishedStep, files
from gemma3build.engine.images import Image
from gemma3build.errors import BuildError
from gemma3build.pins.lockfile import REQUIREMENTS, image_files
from gemma3build.plan.build import CHECK, REFERENCE_STEP, gate_step
from gemma3build.plan.graph import Plan
from gemma3build.release.checksums import PROVENANCE, SIGNATURE
from gemma3build.release.directory import Release, evaluation_text
from gemma3build.release.evaluation import manifest_digest
from gemma3build.release.manifest import LOCAL, term_files
from gemma3build.release.sbom import SBOM
from gemma3build.schema.evaluation import (
    EVALUATION,
    EVALUATION_FORMAT,
    GATE_FILE,
    REPORT,
    Evaluation,
    Gate,
    SchemeEvaluation,
)
from gemma3build.schema.manifest import (
    MANIFEST_FORMAT,
    ArtifactRecord,
    CheckpointRecord,
    ImageRecord,
    Manifest,
)
from gemma3build.util.files import FileDigest, sha256_file
from gemma3build.util.serialize import decode_json
from gemma3build.verify.checks import check_provenance
from gemma3build.verify.untrusted import list_folder


def is_written(release: Release, folder: Path) -> bool:
    """Return whether ``folder`` already has this release, by names, sizes and modification times.

    The SBOM is not made again: SHA256SUMS has its digest. The provenance must name these files; its machine
    and time may differ.
    """
    try:
        release = dataclasses.replace(release, sbom=(folder / SBOM).read_bytes())
        texts = {**release.texts, EVALUATION: evaluation_text(release.evaluation)}
        expected = {*texts, *release.artifacts, PROVENANCE, REPORT}
        if {path.name for path in folder.iterdir()} - {SIGNATURE} != expected:
            return False
        if any((folder / name).read_bytes() != text for name, text in texts.items()):
            return False
        check_provenance(list_folder(folder), release.digests, release.digests)
        return all(_same(folder / name, path) for name, path in release.artifacts.items())
    except (OSError, BuildError):
        return False


def _same(path: Path, source: Path) -> bool:
    if path.samefile(source):
        return True
    here, there = path.stat(), source.stat()
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def make_manifest(
    plan: Plan,
    done: Mapping[str, FinishedStep],
    images: Mapping[str, Image],
    sources: Mapping[str, str],
) -> Manifest:
    """Return the manifest of a finished plan.

    ``done`` has the results by step; ``sources`` the digest of the source of each module of the steps.
    """
    locked = plan.source.locked
    parts = (
        plan.checkpoint,
        plan.tokenizer,
        plan.chat_template,
    )  # of two files, the later one is used
    checkpoint = {file.path: file for part in parts if part for file in files(part, done)}
    fetched = locked.files if locked else ()
    return Manifest(
        format=MANIFEST_FORMAT,
        checkpoint=CheckpointRecord(
            model=plan.model,
            base_model=plan.base_model,
            source=locked.source if locked else LOCAL,
            revision=locked.revision if locked else "",
            parameters=done[CHECK].entry.facts["parameters"],
            files=tuple(sorted(checkpoint.values())),
            fetched=tuple(sorted(set(fetched) - set(checkpoint.values()))),
        ),
        parameters=plan.parameters,
        schemes={scheme.name: scheme for scheme in plan.schemes},
        images=tuple(image_record(image) for _, image in sorted(images.items())),
        sources={module: sources[module] for module in sorted({s.module for s in plan.steps})},
        artifacts=artifact_records(plan, done),
        terms=term_files(),
    )


def image_record(image: Image) -> ImageRecord:
    """Return how the manifest records an image."""
    requirements = image_files(image.name).get(REQUIREMENTS)
    return ImageRecord(
        name=image.name,
        digest=image.digest,
        parent=image.parent,
        requirements=sha256_file(requirements) if requirements else "",
    )


def artifact_records(plan: Plan, done: Mapping[str, FinishedStep]) -> tuple[ArtifactRecord, ...]:
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


def make_evaluation(
    plan: Plan, done: Mapping[str, FinishedStep], cache: Cache, manifest: Manifest
) -> Evaluation:
    """Return what the quality gate of a finished plan measured; ``cache`` has the results ``done``."""
    return Evaluation(
        format=EVALUATION_FORMAT,
        model=manifest.checkpoint.model,
        manifest=manifest_digest(manifest),
        reference=done[REFERENCE_STEP].entry.facts["made_by"],
        schemes=tuple(
            SchemeEvaluation(
                scheme=scheme.name,
                model=_digest(plan, done, scheme.name, ".tflite"),
                bundle=_digest(plan, done, scheme.name, ".task"),
                gate=_gate(cache.output(done[gate_step(scheme.name)].key)),
            )
            for scheme in plan.schemes
        ),
    )


def _digest(plan: Plan, done: Mapping[str, FinishedStep], scheme: str, suffix: str) -> FileDigest:
    """Return the digest of a scheme's file of this kind, under its name in the release."""
    (artifact,) = (
        item for item in plan.artifacts if item.scheme == scheme and item.file_name.endswith(suffix)
    )
    (file,) = files(artifact.source, done)
    return structs.replace(file, path=artifact.file_name)


def _gate(folder: Path) -> Gate:
    return decode_json(Gate, (folder / GATE_FILE).read_bytes(), GATE_FILE)
