import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma3build.core.digests import sha256_bytes
from gemma3build.core.evaluation import EVALUATION, REPORT
from gemma3build.core.manifest import MANIFEST
from gemma3build.engine.packages import Packages
from gemma3build.errors import FLAW_EXIT_CODES, Flaw, RequestError
from gemma3build.record.checksums import CHECKSUMS, PROVENANCE, SIGNATURE, parse_checksums
from gemma3build.record.folder import LARGEST_TEXT, list_folder, listed, short
from gemma3build.record.manifest import read_manifest
from gemma3build.record.provenance import Run, make_provenance
from gemma3build.record.release import Release, write
from gemma3build.record.sbom import SBOM, make_sbom
from gemma3build.record.verify import GATE, State, total_bytes, verify
from tests.fake_release import (
    TASK,
    TFLITE,
    edit_json,
    make_evaluation,
    members,
    seal,
    task,
    write_provenance,
    write_release,
)

OTHER = "m_fp16.task"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


def flaws(folder: Path) -> dict[str, Flaw]:
    """What failed, by check."""
    return {item.name: item.error.flaw for item in verify(folder).findings if item.error}


def state(folder: Path, name: str) -> tuple[State, str]:
    (found,) = (item for item in verify(folder).findings if item.name == name)
    return found.state, found.detail


def test_a_release_is_what_it_says(release: Path) -> None:
    verified = verify(release)
    assert verified.error is None
    states = {item.name: item.state for item in verified.findings}
    assert {name for name, found in states.items() if found != State.PASSED} == {
        PROVENANCE,
        SIGNATURE,
        "pins",
    }
    assert verified.digests[TASK] == sha256_bytes((release / TASK).read_bytes())


def test_progress_counts_every_byte_that_is_announced(release: Path) -> None:
    read: list[int] = []
    verify(release, advance=read.append)
    # Between the members of a bundle are headers that belong to none.
    headers = sum((release / name).stat().st_size for name in (TASK, OTHER)) - sum(
        len(part) for name in ("dynamic_int8", "fp16") for part in members(name).values()
    )
    assert sum(read) == total_bytes(release) - headers


@pytest.mark.parametrize("name", [TASK, TFLITE, "Notice", "GEMMA_TERMS_OF_USE.md"])
def test_one_changed_byte_is_noticed(release: Path, name: str) -> None:
    content = bytearray((release / name).read_bytes())
    content[len(content) // 2] ^= 1
    (release / name).write_bytes(content)
    error = verify(release).error
    assert error is not None
    assert (error.flaw, error.exit_code) == (Flaw.CHANGED, 50)
    assert error.why == f"{name} is not what SHA256SUMS says"


def test_bytes_after_the_end_are_noticed(release: Path) -> None:
    with (release / TFLITE).open("ab") as file:
        file.write(b"\0")
    assert flaws(release)["digests"] == Flaw.CHANGED


@pytest.mark.parametrize("name", [TASK, TFLITE, "Notice", MANIFEST, CHECKSUMS])
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    error = verify(release).error
    assert error is not None
    assert (error.flaw, error.why) == (Flaw.MISSING, f"{name} is not there")


def test_an_extra_file_is_named_without_what_a_terminal_would_obey(release: Path) -> None:
    (release / "\x1b[2Jnew").write_bytes(b"x")
    error = verify(release).error
    assert error is not None
    assert (error.flaw, error.why) == (Flaw.EXTRA, r"'\x1b[2Jnew' is in no line of SHA256SUMS")


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [link, Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_refused_and_not_opened(
    release: Path, make: Callable[[Path], object]
) -> None:
    make(release / REPORT.replace("report", "other"))
    assert flaws(release) == {"files": Flaw.EXTRA}
    (release / TFLITE).unlink()
    make(release / TFLITE)
    assert flaws(release)["names"] == Flaw.MISSING


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(release: Path) -> None:
    folder = list_folder(release)
    (release / TFLITE).unlink()
    (release / TFLITE).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        folder.digest(TFLITE)


def test_a_name_that_a_terminal_would_obey_is_never_printed(release: Path) -> None:
    def change(manifest: Any) -> None:
        manifest["artifacts"][0]["path"] = "\x1b[2J.task"

    edit_json(release / MANIFEST, change)
    seal(release)
    found = verify(release)
    assert found.error is not None
    assert found.error.flaw == Flaw.SWAPPED
    assert "\x1b" not in "".join(item.name + item.detail for item in found.findings)


def test_a_file_that_cannot_be_read_is_named(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("gemma3build.record.folder.os.open", refuse)
    error = verify(release).error
    assert error is not None
    assert error.what == "A file cannot be read"
    assert error.why.endswith("Input/output error")


GOOD_LINE = f"{'0' * 64}  name\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("0" * 64 + "  name", "line 1 is not a digest"),
        ("0" * 64 + " *name\n", "line 1 is not a digest"),
        ("0" * 63 + "  name\n", "line 1 is not a digest"),
        ("A" * 64 + "  name\n", "line 1 is not a digest"),
        ("0" * 64 + "  ../name\n", "line 1 is not a digest"),
        ("0" * 64 + "  name\r\n", "line 1 is not a digest"),
        (GOOD_LINE + "\n", "line 2 is not a digest"),
        (GOOD_LINE * 2, "line 2 has name twice or out of order"),
        (GOOD_LINE + "0" * 64 + "  a\n", "line 2 has a twice or out of order"),
        ("0" * 64 + "  model.sig\n", "line 1 has model.sig, which it cannot cover"),
    ],
)
def test_checksums_are_read_strictly(release: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_checksums(text)
    (release / CHECKSUMS).write_text(text)
    assert flaws(release)[CHECKSUMS] == Flaw.CHECKSUMS


def test_what_depends_on_a_failed_check_is_not_looked_at(release: Path) -> None:
    (release / CHECKSUMS).write_bytes(b"\xff")
    assert flaws(release) == {CHECKSUMS: Flaw.CHECKSUMS}
    assert state(release, "digests")[0] == State.SKIPPED


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
        lambda text: text + b" " * LARGEST_TEXT,
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
    assert error.flaw in (Flaw.MANIFEST, Flaw.CHANGED)
    assert len(str(error)) < 500


def test_a_manifest_with_deep_facts_is_refused(release: Path) -> None:
    deep = b"[" * 600 + b"]" * 600
    text = (release / MANIFEST).read_bytes()
    (release / MANIFEST).write_bytes(text.replace(b'"facts": {}', b'"facts": {"a": %b}' % deep, 1))
    seal(release)
    assert flaws(release)[MANIFEST] == Flaw.MANIFEST


def test_a_manifest_of_another_release_is_noticed(release: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other", {TFLITE: b"other"})
    (release / MANIFEST).write_bytes((other / MANIFEST).read_bytes())
    found = flaws(release)
    assert found["digests"] == found["contents"] == Flaw.SWAPPED
    seal(release)  # and whoever did it wrote the checksums anew
    found = flaws(release)
    assert "digests" not in found
    assert found["contents"] == Flaw.SWAPPED


def change_size(manifest: Any) -> None:
    manifest["artifacts"][0]["size"] += 1


def forget_terms(manifest: Any) -> None:
    manifest["terms"] = ["Notice"]


def name_twice(manifest: Any) -> None:
    manifest["artifacts"].append(manifest["artifacts"][0])


@pytest.mark.parametrize(
    ("change", "flaw", "message"),
    [
        (change_size, Flaw.SWAPPED, "it gives m_dynamic_int8.task"),
        (forget_terms, Flaw.SWAPPED, "GEMMA_TERMS_OF_USE.md is not in both"),
        (name_twice, Flaw.MANIFEST, "it names an artifact twice"),
    ],
)
def test_a_manifest_that_does_not_go_with_the_files_is_noticed(
    release: Path, change: Callable[[Any], None], flaw: Flaw, message: str
) -> None:
    edit_json(release / MANIFEST, change)
    seal(release)
    error = verify(release).error
    assert error is not None
    assert (error.flaw, message in error.why) == (flaw, True), error.why


@pytest.mark.parametrize(
    ("content", "flaw", "message"),
    [
        (b"no archive", Flaw.UNSAFE, "its directory cannot be read"),
        (task(members("dynamic_int8"), 8), Flaw.UNSAFE, "is compressed"),
        (
            task({**members("dynamic_int8"), "MORE": b""}),
            Flaw.BUNDLE,
            "its members are not those of manifest.json",
        ),
        (task(members("fp16")), Flaw.BUNDLE, "its members are not those of manifest.json"),
    ],
)
def test_a_bundle_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, content: bytes, flaw: Flaw, message: str
) -> None:
    folder = write_release(tmp_path / "release", {TASK: content})
    error = verify(folder).error
    assert error is not None
    assert (error.flaw, message in error.why) == (flaw, True), error.why
    assert flaws(folder) == {TASK: flaw}


def test_the_model_of_a_bundle_is_the_one_of_its_scheme(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "release", {TFLITE: b"another model"})
    assert flaws(folder) == {TASK: Flaw.BUNDLE}
    assert state(folder, TASK)[1].endswith("its model is not the .tflite of dynamic_int8")


def test_the_tokenizer_of_a_bundle_is_the_one_of_the_checkpoint(release: Path) -> None:
    def change(manifest: Any) -> None:
        manifest["checkpoint"]["files"][0]["sha256"] = "0" * 64

    edit_json(release / MANIFEST, change)
    seal(release)
    assert flaws(release)[TASK] == Flaw.BUNDLE
    assert state(release, TASK)[1].endswith("its tokenizer is not the checkpoint's")


def fail_gate(evaluation: Any) -> None:
    evaluation["schemes"][1]["gate"]["checks"][0]["passed"] = False


def empty_gate(evaluation: Any) -> None:
    evaluation["schemes"][1]["gate"]["checks"] = []


@pytest.mark.parametrize("change", [fail_gate, empty_gate])
def test_a_release_that_the_gate_refused_is_refused(
    release: Path, change: Callable[[Any], object]
) -> None:
    edit_json(release / EVALUATION, change)
    assert flaws(release) == {GATE: Flaw.EVALUATION}
    assert "the gate refused fp16" in state(release, GATE)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(manifest="0" * 64), "it names another manifest.json"),
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
    assert flaws(release) == {EVALUATION: Flaw.EVALUATION}
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
    assert error.flaw is Flaw.BILL
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
    run = Run(started=0, finished=1)
    provenance = make_provenance(manifest, built.digests, packages, source=None, epoch=0, run=run)
    folder = tmp_path / "built"
    write(dataclasses.replace(built, provenance=provenance), folder)
    assert verify(folder).error is None
    assert state(folder, PROVENANCE) == (State.PASSED, "9 subjects")
    assert (folder / CHECKSUMS).read_bytes() == (release / CHECKSUMS).read_bytes()


def test_a_release_without_its_bill_of_materials_is_of_another_kind(release: Path) -> None:
    (release / SBOM).unlink()
    seal(release)
    assert flaws(release) == {"contents": Flaw.SWAPPED}
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
    assert flaws(release) == {PROVENANCE: Flaw.PROVENANCE}
    assert message in state(release, PROVENANCE)[1]


def test_other_pins_are_reported_and_are_no_failure(release: Path) -> None:
    assert "are from this checkout's pins" in state(release, "pins")[1]

    def change(manifest: Any) -> None:
        manifest["images"][0]["requirements"] = "0" * 64

    edit_json(release / MANIFEST, change)
    seal(release)
    assert state(release, "pins")[0] == State.NOTED
    assert state(release, "pins")[1].startswith("bundle is not from this checkout's pins")
    assert "pins" not in flaws(release)


def test_a_signature_that_is_not_asked_for_is_mentioned(release: Path) -> None:
    assert state(release, SIGNATURE) == (State.NOTED, "there is none")
    (release / SIGNATURE).write_text("{}")
    assert "it was not checked" in state(release, SIGNATURE)[1]
    assert flaws(release) == {}


def test_what_is_no_directory_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file or directory"):
        verify(tmp_path / "nowhere")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None
)
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


def test_lists_of_names_are_short() -> None:
    assert listed(["b", "a"]) == "a, b are"
    assert listed(f"{n}" for n in range(9)) == "0, 1, 2, 6 more are"
    assert short("x" * 1000).endswith("x…")


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "gemma3build", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_a_line_for_each_check_and_exits(release: Path) -> None:
    done = run(str(release))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"✓ {TASK} " in done.stdout
    assert "\x1b" not in done.stdout
    (release / TASK).unlink()
    done = run(str(release))
    assert done.returncode == FLAW_EXIT_CODES[Flaw.MISSING]
    assert "✗ names " in done.stdout
    assert "Why: m_dynamic_int8.task is not there" in done.stderr


def test_the_command_speaks_json(release: Path) -> None:
    found = json.loads(run(str(release), "--json").stdout)
    assert found["verified"]
    (release / "more").write_text("")
    done = run(str(release), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == FLAW_EXIT_CODES[Flaw.EXTRA]
    assert not found["verified"]
    (failed,) = (check for check in found["checks"] if check["state"] == "failed")
    assert (failed["name"], failed["flaw"]) == ("names", "extra")
