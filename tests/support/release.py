"""A small release with everything in it that a real one has, to be broken by tests."""

import functools
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gemma3build.errors import ErrorCode
from gemma3build.pins.config import load_schemes
from gemma3build.pins.lockfile import read_images_lock
from gemma3build.release.checksums import CHECKSUMS, PROVENANCE, UNLISTED, checksums
from gemma3build.release.directory import evaluation_text
from gemma3build.release.manifest import LEGAL_DIR, term_files
from gemma3build.release.sbom import SBOM, make_sbom
from gemma3build.schema.evaluation import (
    EVALUATION,
    EVALUATION_FORMAT,
    REPORT,
    Check,
    Evaluation,
    Gate,
    SchemeEvaluation,
)
from gemma3build.schema.manifest import (
    MANIFEST,
    MANIFEST_FORMAT,
    ArtifactRecord,
    CheckpointRecord,
    ImageRecord,
    Manifest,
    Parameters,
)
from gemma3build.schema.packages import Packages
from gemma3build.util.files import FileDigest, digest_file, sha256_bytes
from gemma3build.util.machine import Machine
from gemma3build.util.serialize import pretty_json
from gemma3build.verify.verify import State, verify

SCHEMES = ("dynamic_int8", "fp16")
TOKENIZER = b"tokenizer" * 9
METADATA = b"metadata"
TASK, TFLITE = "m_dynamic_int8.task", "m_dynamic_int8.tflite"


def model(scheme: str) -> bytes:
    return f"model in {scheme} ".encode() * 50


def members(scheme: str) -> dict[str, bytes]:
    return {
        "TF_LITE_PREFILL_DECODE": model(scheme),
        "TOKENIZER_MODEL": TOKENIZER,
        "METADATA": METADATA,
    }


class AlignedZipFile(zipfile.ZipFile):
    """Pads each member as MediaPipe's bundler does."""

    def _writecheck(self, zinfo: zipfile.ZipInfo) -> None:
        assert self.fp is not None
        padding = 4 - (self.fp.tell() + len(zinfo.FileHeader())) % 4
        self.fp.write(b"\0" * padding)
        zinfo.header_offset += padding
        super()._writecheck(zinfo)  # type: ignore[misc]


def task(contents: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with AlignedZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def make_manifest(artifacts: Mapping[str, bytes], facts: Mapping[str, Any]) -> Manifest:
    locked = read_images_lock().images
    schemes = {name: scheme for name, scheme in load_schemes().items() if name in SCHEMES}
    tokenizer = FileDigest(
        path="tokenizer.model", size=len(TOKENIZER), sha256=sha256_bytes(TOKENIZER)
    )
    return Manifest(
        format=MANIFEST_FORMAT,
        checkpoint=CheckpointRecord(
            model="m",
            base_model="",
            source="local",
            revision="",
            parameters=1,
            files=(tokenizer,),
            fetched=(),
        ),
        parameters=Parameters(prefill_seq_lens=(8,), kv_cache_max_len=64),
        schemes=schemes,
        images=tuple(
            ImageRecord(
                name=name,
                digest="0" * 64,
                parent=f"debian sha256:{'0' * 64}",
                requirements=locked[name].get("requirements.txt", ""),
            )
            for name in ("bundle", "convert")
        ),
        sources={"bundle": "0" * 64},
        artifacts=tuple(
            ArtifactRecord(
                path=name,
                scheme=name.removeprefix("m_").rpartition(".")[0],
                size=len(content),
                sha256=sha256_bytes(content),
                facts=facts.get(name, {}),
            )
            for name, content in sorted(artifacts.items())
        ),
        terms=term_files(),
    )


def make_evaluation(manifest: Manifest, manifest_text: bytes) -> Evaluation:
    gate = Gate(
        checks=(Check(name="weights", measured="as the scheme", allowed="", passed=True),),
        weights={},
        runtime={},
        machine=Machine(cpu="a", cores=1, memory=1),
    )
    digests = {
        item.path: FileDigest(path=item.path, size=item.size, sha256=item.sha256)
        for item in manifest.artifacts
    }
    return Evaluation(
        format=EVALUATION_FORMAT,
        model="m",
        manifest=sha256_bytes(manifest_text),
        reference="transformers",
        schemes=tuple(
            SchemeEvaluation(
                scheme=name,
                model=digests[f"m_{name}.tflite"],
                bundle=digests[f"m_{name}.task"],
                gate=gate,
            )
            for name in SCHEMES
        ),
    )


def figures(cpu: str) -> dict[str, Any]:
    """Return PIQA and speed as an evaluation has them, measured on this processor."""
    machine = {"cpu": cpu, "cores": 2, "memory": 8 << 30}
    return {
        "piqa": {
            "questions": 1838,
            "of": 1838,
            "acc": 0.668,
            "acc_stderr": 0.011,
            "acc_norm": 0.671,
            "acc_norm_stderr": 0.011,
            "data": "0" * 64,
            "seconds": 1.0,
            "runtime": {"lm-eval": "0.4"},
            "machine": machine,
        },
        "speed": {
            "prefill": 534.0,
            "decode": 67.0,
            "peak_memory": 481_000_000,
            "prefill_tokens": 256,
            "decode_tokens": 64,
            "runs": 5,
            "threads": 2,
            "runtime": {"litert-lm-api": "0.18"},
            "machine": machine,
        },
    }


def write_release(folder: Path, replaced: Mapping[str, bytes] | None = None) -> Path:
    """Write a release.

    Args:
        folder: where; it must not be there.
        replaced: content of artifacts that are other than they should be; facts stay those of what
            should be there.
    """
    folder.mkdir()
    for name, content in release_files(tuple((replaced or {}).items())).items():
        (folder / name).write_bytes(content)
    seal(folder)
    return folder


@functools.cache
def release_files(replaced: tuple[tuple[str, bytes], ...]) -> Mapping[str, bytes]:
    """Return what a release holds but its checksums, by name."""
    right = {f"m_{name}.tflite": model(name) for name in SCHEMES}
    right |= {f"m_{name}.task": task(members(name)) for name in SCHEMES}
    facts = {
        f"m_{name}.task": {
            "members": {part: sha256_bytes(content) for part, content in members(name).items()}
        }
        for name in SCHEMES
    }
    artifacts = {**right, **dict(replaced)}
    manifest = make_manifest(artifacts, facts)
    text = pretty_json(manifest)
    legal = {path.name: path.read_bytes() for path in LEGAL_DIR.iterdir()}
    evaluation = evaluation_text(make_evaluation(manifest, text))
    nothing = Packages(wheels=(), debian=())
    bill = make_sbom(manifest, {image.name: nothing for image in manifest.images})
    rest = {MANIFEST: text, SBOM: bill, EVALUATION: evaluation, REPORT: b"<html></html>"}
    return {**artifacts, **legal, **rest}


def seal(folder: Path) -> None:
    """Write the SHA256SUMS for the current files of the folder."""
    files = (digest_file(path, path.name) for path in folder.iterdir() if path.name not in UNLISTED)
    (folder / CHECKSUMS).write_text(checksums(files))


def write_provenance(folder: Path) -> None:
    subjects = [
        {"name": path.name, "digest": {"sha256": digest_file(path, path.name).sha256}}
        for path in sorted(folder.iterdir())
        if path.name not in UNLISTED - {CHECKSUMS}
    ]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {},
    }
    (folder / PROVENANCE).write_text(json.dumps(statement) + "\n")


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change the value in a file of JSON, in the form in which it was written."""
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(pretty_json(value))


def flaws(folder: Path) -> dict[str, ErrorCode]:
    """What failed, by check."""
    return {item.name: item.error.code for item in verify(folder).findings if item.error}


def state(folder: Path, name: str) -> tuple[State, str]:
    (found,) = (item for item in verify(folder).findings if item.name == name)
    return found.state, found.detail
