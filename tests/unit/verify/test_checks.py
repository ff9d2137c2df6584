"""What verifying says of the records of a release: manifest, evaluation, bill of materials, provenance."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import CHECKSUMS, PROVENANCE, SIGNATURE
from gemma3build.release.directory import Release, write
from gemma3build.release.manifest import read_manifest
from gemma3build.release.provenance import BuildRun, make_provenance
from gemma3build.release.sbom import SBOM, make_sbom
from gemma3build.report.report import measured_files
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.manifest import MANIFEST
from gemma3build.schema.packages import Packages
from gemma3build.util.files import LARGEST
from gemma3build.verify.verify import GATE, State, verify
from tests.support.release import (
    TASK,
    TFLITE,
    edit_json,
    flaws,
    make_evaluation,
    seal,
    state,
    write_provenance,
    write_release,
)


def manifest_key_twice(text: bytes) -> bytes:
    return text.replace(b'{\n  "artifacts"', b'{\n  "artifacts": [],\n  "artifacts"', 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"\xff",
        lambda _: b"[" * 100_000,
        lambda text: b'{"a":' * 900 + text + b"}" * 900,
        lambda text: text.replace(b'"lean": true', b'"lean": NaN'),
        lambda text: text.replace(b'"lean": true', b'"lean": 1'),
        lambda text: text.replace(b'"model": "m"', b'"model": ""'),
        lambda text: text.replace(b'"terms": [', b'"more": [], "terms": ['),
        lambda text: text.replace(b"gemma3build.manifest/1", b"gemma3build.manifest/2"),
        lambda text: text.replace(b'.task"', b'/../x"', 1),
        lambda text: text + b"\n",
        lambda text: text + b" " * LARGEST,
        manifest_key_twice,
    ],
)
def test_a_manifest_of_another_form_is_refused(
    release: Path, change: Callable[[bytes], bytes]
) -> None:
    text = (release / MANIFEST).read_bytes()
    (release / MANIFEST).write_bytes(change(text))
    assert (release / MANIFEST).read_bytes() != text
    seal(release)
    error = verify(release).error
    assert error is not None
    assert error.code in (ErrorCode.MANIFEST, ErrorCode.CHANGED)
    assert len(str(error)) < 500


def test_a_manifest_with_deep_facts_is_refused(release: Path) -> None:
    deep = b"[" * 600 + b"]" * 600
    text = (release / MANIFEST).read_bytes()
    (release / MANIFEST).write_bytes(text.replace(b'"facts": {}', b'"facts": {"a": %b}' % deep, 1))
    seal(release)
    assert flaws(release)[MANIFEST] == ErrorCode.MANIFEST


def test_a_manifest_of_another_release_is_noticed(release: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other", {TFLITE: b"other"})
    (release / MANIFEST).write_bytes((other / MANIFEST).read_bytes())
    found = flaws(release)
    assert found["digests"] == found["contents"] == ErrorCode.SWAPPED
    seal(release)  # with checksums to match
    found = flaws(release)
    assert "digests" not in found
    assert found["contents"] == ErrorCode.SWAPPED


def change_size(manifest: Any) -> None:
    manifest["artifacts"][0]["size"] += 1


def forget_terms(manifest: Any) -> None:
    manifest["terms"] = ["Notice"]


def name_twice(manifest: Any) -> None:
    manifest["artifacts"].append(manifest["artifacts"][0])


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (change_size, ErrorCode.SWAPPED, "it says that m_dynamic_int8.task has"),
        (forget_terms, ErrorCode.SWAPPED, "GEMMA_TERMS_OF_USE.md is not in both"),
        (name_twice, ErrorCode.MANIFEST, "it names an artifact twice"),
    ],
)
def test_a_manifest_that_does_not_go_with_the_files_is_noticed(
    release: Path, change: Callable[[Any], None], code: ErrorCode, message: str
) -> None:
    edit_json(release / MANIFEST, change)
    seal(release)
    error = verify(release).error
    assert error is not None
    assert (error.code, message in error.why) == (code, True), error.why


def fail_gate(evaluation: Any) -> None:
    evaluation["schemes"][1]["gate"]["checks"][0]["passed"] = False


def empty_gate(evaluation: Any) -> None:
    evaluation["schemes"][1]["gate"]["checks"] = []


@pytest.mark.parametrize("change", [fail_gate, empty_gate])
def test_a_release_that_the_gate_refused_is_refused(
    release: Path, change: Callable[[Any], object]
) -> None:
    edit_json(release / EVALUATION, change)
    assert flaws(release) == {GATE: ErrorCode.EVALUATION}
    assert "fp16 failed the quality gate" in state(release, GATE)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(manifest="0" * 64), "it is about another manifest.json"),
        (lambda value: value.update(format="x\x1b"), "its format is"),
        (lambda value: value["schemes"].pop(), "its schemes are not those"),
        (
            lambda value: value["schemes"][0]["model"].update(size=1),
            "files that manifest.json does",
        ),
        (lambda value: value.update(more=1), "unknown key"),
    ],
)
def test_an_evaluation_of_something_else_is_refused(
    release: Path, change: Callable[[Any], object], message: str
) -> None:
    edit_json(release / EVALUATION, change)
    assert flaws(release) == {EVALUATION: ErrorCode.EVALUATION}
    assert message in state(release, EVALUATION)[1]
    (release / EVALUATION).unlink()
    assert flaws(release) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bill: bill.update(bomFormat="SPDX"), "its format is 'SPDX'"),
        (lambda bill: bill.update(components=[]), "not as the manifest says"),
        (lambda bill: bill.update(components=None), "TypeError"),
        (
            lambda bill: [
                item.update(hashes=[{"content": "0" * 64}]) for item in bill["components"]
            ],
            "m_dynamic_int8.tflite",
        ),
    ],
)
def test_a_bill_of_materials_of_other_files_is_noticed(
    release: Path, change: Callable[[Any], None], message: str
) -> None:
    edit_json(release / SBOM, change)
    seal(release)
    error = verify(release).error
    assert error is not None
    assert error.code is ErrorCode.SBOM
    assert message in str(error)


def test_what_a_build_writes_passes(release: Path, tmp_path: Path) -> None:
    manifest = read_manifest(release)
    packages = {image.name: Packages(wheels=(), debian=()) for image in manifest.images}
    built = Release(
        manifest=manifest,
        evaluation=make_evaluation(manifest, (release / MANIFEST).read_bytes()),
        artifacts={item.path: release / item.path for item in manifest.artifacts},
        sbom=make_sbom(manifest, packages),
    )
    run = BuildRun(started=0, finished=1)
    provenance = make_provenance(manifest, built.digests, packages, source=None, epoch=0, run=run)
    folder = tmp_path / "built"
    write(
        dataclasses.replace(built, provenance=provenance),
        measured_files(manifest, built.evaluation),
        folder,
    )
    assert verify(folder).error is None
    assert state(folder, PROVENANCE) == (State.PASSED, "9 subjects")
    assert (folder / CHECKSUMS).read_bytes() == (release / CHECKSUMS).read_bytes()


def test_a_release_without_its_bill_of_materials_is_of_another_kind(release: Path) -> None:
    (release / SBOM).unlink()
    seal(release)
    assert flaws(release) == {"contents": ErrorCode.SWAPPED}
    assert "sbom.cdx.json is not in both" in state(release, "contents")[1]


def test_a_provenance_of_the_files_passes(release: Path) -> None:
    write_provenance(release)
    assert state(release, PROVENANCE) == (State.PASSED, "9 subjects")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value["subject"].pop(0), "GEMMA_TERMS_OF_USE.md is not in both"),
        (lambda value: value["subject"].append(value["subject"][0]), "it names a file twice"),
        (lambda value: value["subject"][1]["digest"].update(sha256="0"), "is not what it says"),
        (lambda value: value["subject"][1].update(name="x"), "are not in both"),
        (lambda value: value.update(predicateType="x"), "it is not https://in-toto.io"),
        (lambda value: value.pop("_type"), "KeyError"),
        (lambda value: value.update(subject={"a": 1}), "TypeError"),
    ],
)
def test_a_provenance_of_something_else_is_refused(
    release: Path, change: Callable[[Any], object], message: str
) -> None:
    write_provenance(release)
    value = json.loads((release / PROVENANCE).read_text())
    change(value)
    (release / PROVENANCE).write_text(json.dumps(value))
    assert flaws(release) == {PROVENANCE: ErrorCode.PROVENANCE}
    assert message in state(release, PROVENANCE)[1]


def test_other_pins_are_reported_and_are_no_failure(release: Path) -> None:
    assert "are pinned by this gemma3build" in state(release, "pins")[1]

    def change(manifest: Any) -> None:
        manifest["images"][0]["requirements"] = "0" * 64

    edit_json(release / MANIFEST, change)
    seal(release)
    assert state(release, "pins")[0] == State.NOTED
    assert state(release, "pins")[1].startswith("bundle is not pinned by this gemma3build")
    assert "pins" not in flaws(release)


def test_a_signature_that_is_not_asked_for_is_mentioned(release: Path) -> None:
    assert state(release, SIGNATURE) == (State.NOTED, "there is none")
    (release / SIGNATURE).write_text("{}")
    assert "not checked" in state(release, SIGNATURE)[1]
    assert flaws(release) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([MANIFEST, CHECKSUMS, SBOM, EVALUATION, PROVENANCE, TASK]),
    st.floats(0, 1, exclude_max=True),
    st.binary(max_size=6),
    st.integers(0, 40),
)
def test_no_change_of_a_record_is_a_traceback_or_goes_unnoticed(
    tmp_path: Path, name: str, where: float, filler: bytes, removed: int
) -> None:
    folder = tmp_path / "release"
    if not folder.exists():
        write_provenance(write_release(folder))
    content = (folder / name).read_bytes()
    at = int(where * len(content))
    changed = content[:at] + filler + content[at + removed :]
    try:
        (folder / name).write_bytes(changed)
        found = flaws(folder)
    finally:
        (folder / name).write_bytes(content)
    # The evaluation and the provenance are covered by no checksum, and say much that nothing else does.
    assert bool(found) >= (changed != content and name in (MANIFEST, CHECKSUMS, SBOM, TASK))
