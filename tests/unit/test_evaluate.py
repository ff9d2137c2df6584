"""What an evaluation takes from a release, which anybody may have written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gemma3build.core.canonical import pretty_json
from gemma3build.core.codec import encode
from gemma3build.core.evaluation import EVALUATION, Evaluation
from gemma3build.core.manifest import MANIFEST, Manifest
from gemma3build.errors import RequestError
from gemma3build.evaluate import EvaluationRequest, find_checkpoint, find_scheme, read_release
from gemma3build.record.evaluation import manifest_digest
from tests.unit.test_report import gate, piqa, sample, scheme, speed

INT8 = "dynamic_int8"


def measured() -> tuple[Manifest, Evaluation]:
    return sample(scheme(INT8, 9, gate(kl=0.1, text="t"), piqa(0.6), speed(9, 9, 9)))


def write(folder: Path, manifest: Manifest, evaluation: Evaluation) -> Path:
    folder.mkdir(exist_ok=True)
    evaluation = dataclasses.replace(evaluation, manifest=manifest_digest(manifest))
    (folder / MANIFEST).write_bytes(pretty_json(encode(manifest)))
    (folder / EVALUATION).write_bytes(pretty_json(encode(evaluation)))
    return folder


def edit(folder: Path, change: Any) -> Path:
    """Change the evaluation in a release as a person would."""
    found = json.loads((folder / EVALUATION).read_bytes())
    change(found)
    (folder / EVALUATION).write_text(json.dumps(found))
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write(tmp_path / "release", *measured())


def test_a_release_is_read_with_its_figures(release: Path) -> None:
    manifest, evaluation = measured()
    found = read_release(release)
    assert found.manifest == manifest
    assert found.evaluation.schemes == evaluation.schemes


def digest_of_another(found: Any) -> None:
    found["schemes"][0]["bundle"]["sha256"] = "0" * 64


def file_of_another_scheme(found: Any) -> None:
    found["schemes"][0]["scheme"] = "fp16"


def not_a_number(found: Any) -> None:
    found["schemes"][0]["piqa"]["acc"] = float("nan")


def later_format(found: Any) -> None:
    found["format"] = "gemma3build.evaluation/2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (digest_of_another, "names a 'gemma3-270m_dynamic_int8_ekv1024.task' that the manifest"),
        (file_of_another_scheme, "names a 'gemma3-270m_dynamic_int8_ekv1024.tflite' that"),
        (not_a_number, "no evaluation.json that goes with its manifest"),
        (later_format, "no evaluation.json that goes with its manifest"),
    ],
)
def test_an_evaluation_that_does_not_go_with_its_release_is_refused(
    release: Path, change: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        read_release(edit(release, change))


@pytest.mark.parametrize("path", ["../secret.task", "/etc/passwd", "below/m.task", "..", ""])
def test_no_file_lies_outside_of_the_release(tmp_path: Path, path: str) -> None:
    manifest, evaluation = measured()
    (item,) = evaluation.schemes
    artifacts = tuple(
        dataclasses.replace(record, path=path) if record.path == item.bundle.path else record
        for record in manifest.artifacts
    )
    moved = dataclasses.replace(item, bundle=dataclasses.replace(item.bundle, path=path))
    folder = write(
        tmp_path / "release",
        dataclasses.replace(manifest, artifacts=artifacts),
        dataclasses.replace(evaluation, schemes=(moved,)),
    )
    with pytest.raises(RequestError, match="is no name of a file in a release"):
        read_release(folder)


@pytest.mark.parametrize(
    ("schemes", "message"),
    [
        ({}, f"manifest.json: schemes.{INT8}: expected a table, found None"),
        ({INT8: {"name": INT8, "suffix": "q", "summary": "", "bits": 3}}, "bits: unknown key"),
        ({INT8: {"name": "other", "suffix": "q", "summary": ""}}, "has 'other' under the name"),
    ],
)
def test_a_scheme_that_the_manifest_does_not_explain_is_refused(
    schemes: dict[str, Any], message: str
) -> None:
    manifest = dataclasses.replace(measured()[0], schemes=schemes)
    with pytest.raises(RequestError, match=message):
        find_scheme(manifest, INT8)


def test_parameters_of_another_form_are_refused() -> None:
    manifest = dataclasses.replace(measured()[0], parameters={"prefill_seq_lens": "many"})
    with pytest.raises(RequestError, match="manifest.json: parameters"):
        find_checkpoint(manifest, EvaluationRequest())
