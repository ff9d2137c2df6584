"""With ``--json``, every error is one JSON object on standard output; people read standard error."""

import json
from pathlib import Path
from typing import Any

import pytest

from gemma3build.cli.console import print_error, show_error
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.schema.evaluation import Check
from tests.support.command import run_command
from tests.unit.cli.test_app import commands, environment

SPEAKING = [
    path
    for path, command in commands().items()
    if any("--json" in param.opts for param in command.params)
]
KEYS = {"code", "what", "why", "hint"}


def fail(*arguments: object, cwd: Path | None = None) -> tuple[int, Any, str]:
    """Return exit code, the one JSON value, and what people read."""
    done = run_command(*arguments, "--json", cwd=cwd, environment=environment(cwd))
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("build",), ErrorCode.ENGINE),
        (("build", "--scheme", "int2"), ErrorCode.UNKNOWN_NAME),
        (("build", "--model", "gemma3-270m", "--checkpoint", "x"), ErrorCode.REQUEST),
        (("build", "--model", "gemma3-1b-it", "--dry-run"), ErrorCode.DRIFT),
        (("plan", "--scheme", "int2"), ErrorCode.UNKNOWN_NAME),
        (("evaluate", "nowhere"), ErrorCode.REQUEST),
        (("evaluate", "--compare", "a", "b", "--limit", "2"), ErrorCode.REQUEST),
        (("verify", "nowhere"), ErrorCode.REQUEST),
        (("verify", "--identity", "a@b"), ErrorCode.REQUEST),
        (("rebuild", "nowhere"), ErrorCode.REQUEST),
        (("rebuild", "--from-archive", "nowhere"), ErrorCode.ARCHIVE),
        (("publish", "nowhere", "--repo", "org/name"), ErrorCode.REQUEST),
        (("publish", "--repo", "name"), ErrorCode.REQUEST),
        (("release", "gemma3-270m", "../v1"), ErrorCode.REQUEST),
        (("images",), ErrorCode.ENGINE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_error_is_one_object(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: ErrorCode,
) -> None:
    def connect() -> None:  # where none answers, the real one leaves a socket open
        raise BuildError(ErrorCode.ENGINE, "No Docker engine answers", "there is none", "Start it.")

    monkeypatch.setattr("gemma3build.engine.docker.connect", connect)
    monkeypatch.setattr("gemma3build.workflows.build.clean_revision", lambda: None)
    status, found, said = fail(*arguments, cwd=tmp_path)
    assert status == code.exit_code
    assert found.keys() == {"error"}
    assert found["error"].keys() == KEYS
    assert found["error"]["code"] == code.value
    assert f"{found['error']['what']}.\n  Why: {found['error']['why']}\n" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", SPEAKING, ids=" ".join)
def test_a_wrong_option_is_an_object_of_every_command(command: tuple[str, ...]) -> None:
    status, found, said = fail(*command, "--frobnicate")
    assert status == 2
    assert found["error"].keys() == KEYS
    assert found["error"]["code"] == "usage"
    assert "No such option: --frobnicate" in found["error"]["why"]
    assert "No such option: --frobnicate" in said


def test_without_the_option_standard_output_stays_empty(tmp_path: Path) -> None:
    done = run_command("build", "--scheme", "int2", cwd=tmp_path, environment=environment(tmp_path))
    assert done.stdout == ""


def test_ctrl_c_is_an_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemma3build.workflows.request.prepare_build", stop)
    status, found, said = fail("build", cwd=tmp_path)
    assert (status, found["error"]["code"]) == (130, "interrupted")
    assert found["error"]["what"] == "`gemma3build build` was stopped"
    assert "Run the same command again; finished steps are kept." in said


def test_a_defect_is_an_object_and_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down(_: object) -> None:
        message = "broken"
        raise ValueError(message)

    monkeypatch.setattr("gemma3build.workflows.request.prepare_build", break_down)
    printed: list[BuildError] = []
    monkeypatch.setattr("gemma3build.cli.app.print_error", printed.append)
    with pytest.raises(ValueError, match="broken"):
        run_command("build", "--json", cwd=tmp_path)
    assert [error.code for error in printed] == [ErrorCode.INTERNAL]
    assert printed[0].why == "ValueError: broken"


def test_what_was_found_out_before_is_in_the_same_object(release: Path) -> None:
    (release / "more").write_text("")
    status, found, said = fail("verify", release)
    assert status == ErrorCode.EXTRA.exit_code
    assert (found["verified"], found["error"]["code"]) == (False, "extra")
    assert [item["name"] for item in found["checks"] if item["state"] == "failed"] == ["names"]
    assert "There are files that do not belong there." in said


def test_the_gate_a_log_and_notes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    check = Check(name="kl", measured="1", allowed="0.1", passed=False)
    checks = {"fp16": (check,)}
    error = BuildError(ErrorCode.GATE, "W", "because", "H.", log="end\x1b", checks=checks)
    error.log_file = Path("/cache/log.txt")
    error.add_note("Where: short, build")
    print_error(error)
    found = json.loads(capsys.readouterr().out)["error"]
    assert found["checks"]["fp16"][0]["name"] == "kl"
    assert (found["log"], found["notes"]) == ("/cache/log.txt", ["Where: short, build"])
    show_error(error)
    said = capsys.readouterr().err
    assert all(text in said for text in ("end␛", "kl", "Why: because", "Next: H.", "Where: short"))
    assert "Log: /cache/log.txt" in said
