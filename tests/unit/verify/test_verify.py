"""What verifying says of the files of a release, its checksums and its bundles; and the command."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import CHECKSUMS, PROVENANCE, SIGNATURE, parse_checksums
from gemma3build.schema.evaluation import REPORT
from gemma3build.schema.manifest import MANIFEST
from gemma3build.util.files import sha256_bytes
from gemma3build.util.text import join_names, truncate
from gemma3build.verify.untrusted import list_folder
from gemma3build.verify.verify import State, total_bytes, verify
from tests.support.command import run_command
from tests.support.errors import raises
from tests.support.release import (
    TASK,
    TFLITE,
    edit_json,
    flaws,
    members,
    seal,
    state,
    task,
    write_release,
)

OTHER = "m_fp16.task"


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
    assert error.code is ErrorCode.CHANGED
    assert error.why == f"{name} is not the file that SHA256SUMS lists"


def test_bytes_after_the_end_are_noticed(release: Path) -> None:
    with (release / TFLITE).open("ab") as file:
        file.write(b"\0")
    assert flaws(release)["digests"] == ErrorCode.CHANGED


@pytest.mark.parametrize("name", [TASK, TFLITE, "Notice", MANIFEST, CHECKSUMS])
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    error = verify(release).error
    assert error is not None
    assert (error.code, error.why) == (ErrorCode.MISSING, f"{name} is not there")


def test_an_extra_file_is_named_without_what_a_terminal_would_obey(release: Path) -> None:
    (release / "\x1b[2Jnew").write_bytes(b"x")
    error = verify(release).error
    assert error is not None
    assert (error.code, error.why) == (ErrorCode.EXTRA, r"'\x1b[2Jnew' is not listed in SHA256SUMS")


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [link, Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_refused_and_not_opened(
    release: Path, make: Callable[[Path], object]
) -> None:
    make(release / REPORT.replace("report", "other"))
    assert flaws(release) == {"files": ErrorCode.EXTRA}
    (release / TFLITE).unlink()
    make(release / TFLITE)
    assert flaws(release)["names"] == ErrorCode.MISSING


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(release: Path) -> None:
    folder = list_folder(release)
    (release / TFLITE).unlink()
    (release / TFLITE).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        folder.digest(TFLITE)


def test_a_name_that_a_terminal_would_obey_is_never_printed(release: Path) -> None:
    def change(manifest: Any) -> None:
        manifest["\x1b[2J.task"] = ""

    edit_json(release / MANIFEST, change)
    seal(release)
    found = verify(release)
    assert found.error is not None
    assert found.error.code == ErrorCode.MANIFEST
    assert "[2J.task" in found.error.why
    assert "\x1b" not in "".join(item.name + item.detail for item in found.findings)


def test_a_file_that_cannot_be_read_is_named(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("gemma3build.verify.untrusted.os.open", refuse)
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
        ("0" * 64 + "  model.sig\n", "line 1 has model.sig, which it must not list"),
    ],
)
def test_checksums_are_read_strictly(release: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_checksums(text)
    (release / CHECKSUMS).write_text(text)
    assert flaws(release)[CHECKSUMS] == ErrorCode.CHECKSUMS


def test_what_depends_on_a_failed_check_is_not_looked_at(release: Path) -> None:
    (release / CHECKSUMS).write_bytes(b"\xff")
    assert flaws(release) == {CHECKSUMS: ErrorCode.CHECKSUMS}
    assert state(release, "digests")[0] == State.SKIPPED


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"no archive", ErrorCode.UNSAFE, "its directory cannot be read"),
        (task(members("dynamic_int8"), 8), ErrorCode.UNSAFE, "is compressed"),
        (
            task({**members("dynamic_int8"), "MORE": b""}),
            ErrorCode.BUNDLE,
            "its members are not those of manifest.json",
        ),
        (task(members("fp16")), ErrorCode.BUNDLE, "its members are not those of manifest.json"),
    ],
)
def test_a_bundle_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, content: bytes, code: ErrorCode, message: str
) -> None:
    folder = write_release(tmp_path / "release", {TASK: content})
    error = verify(folder).error
    assert error is not None
    assert (error.code, message in error.why) == (code, True), error.why
    assert flaws(folder) == {TASK: code}


def test_the_model_of_a_bundle_is_the_one_of_its_scheme(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "release", {TFLITE: b"another model"})
    assert flaws(folder) == {TASK: ErrorCode.BUNDLE}
    assert state(folder, TASK)[1].endswith("its model is not the .tflite of dynamic_int8")


def test_the_tokenizer_of_a_bundle_is_the_one_of_the_checkpoint(release: Path) -> None:
    def change(manifest: Any) -> None:
        manifest["checkpoint"]["files"][0]["sha256"] = "0" * 64

    edit_json(release / MANIFEST, change)
    seal(release)
    assert flaws(release)[TASK] == ErrorCode.BUNDLE
    assert state(release, TASK)[1].endswith("its tokenizer is not the checkpoint's")


def test_what_is_no_directory_is_no_release(tmp_path: Path) -> None:
    with raises(ErrorCode.REQUEST, match="No such file or directory"):
        verify(tmp_path / "nowhere")


def test_lists_of_names_are_short() -> None:
    assert join_names(["b", "a"]) == "a, b are"
    assert join_names(f"{n}" for n in range(9)) == "0, 1, 2, 6 more are"
    assert truncate("x" * 1000).endswith("x…")


def test_the_command_prints_a_line_for_each_check_and_exits(release: Path) -> None:
    done = run_command("verify", release)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"✓ {TASK} " in done.stdout
    assert "\x1b" not in done.stdout
    (release / TASK).unlink()
    done = run_command("verify", release)
    assert done.returncode == ErrorCode.MISSING.exit_code
    assert "✗ names " in done.stdout
    assert "Why: m_dynamic_int8.task is not there" in done.stderr


def test_the_command_speaks_json(release: Path) -> None:
    found = json.loads(run_command("verify", release, "--json").stdout)
    assert found["verified"]
    (release / "more").write_text("")
    done = run_command("verify", release, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == ErrorCode.EXTRA.exit_code
    assert not found["verified"]
    (failed,) = (check for check in found["checks"] if check["state"] == "failed")
    assert (failed["name"], failed["flaw"]) == ("names", "extra")
