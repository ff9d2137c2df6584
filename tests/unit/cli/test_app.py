import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.main import get_command

from gemma3build import __version__
from gemma3build.cli.app import app, main
from gemma3build.cli.console import checks_table, make_console
from gemma3build.cli.environment import cache_size
from gemma3build.cli.options import parse_size
from gemma3build.engine.preflight import check_disk, check_memory
from gemma3build.engine.runner import CACHE_VARIABLE
from gemma3build.errors import ErrorCode, from_step
from gemma3build.plan.graph import Step
from gemma3build.release.directory import check_output
from gemma3build.schema.evaluation import Check
from gemma3build.schema.step import StepErrorCode, StepFailure
from tests.support.command import run_command
from tests.support.errors import raises

NO_FOLDER = "it is not a folder\n  Next: Check the path.\n"


def environment(home: Path | None) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "DOCKER_HOST": "unix:///nowhere",
        "HOME": str(home or "/nowhere"),
    }


def run(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return run_command(*arguments, cwd=cwd, environment=environment(cwd))


def commands(of: Any = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the commands that do something, by what a user types."""
    of = of or get_command(app)
    children = getattr(of, "commands", {})
    found: dict[tuple[str, ...], Any] = {} if children else {path: of}
    for name, child in children.items():
        found |= commands(child, (*path, name))
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    narrow = {**environment(None), "COLUMNS": "80"}
    done = run_command(*command, "--help", environment=narrow)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    options = [param for param in commands()[command].params if not getattr(param, "hidden", False)]
    names = [name for param in options for name in (*param.opts, *param.secondary_opts)]
    assert [name for name in names if name not in done.stdout] == []
    assert "…" not in done.stdout
    # Markdown drops text in angle brackets.
    assert not re.search(r"\[artifacts/\]|\[\.", done.stdout)


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.strip() == __version__


def test_a_process_ends_with_the_exit_code_of_its_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gemma3build", "build"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    assert (done.returncode, done.stdout) == (ErrorCode.ENGINE.exit_code, "")
    assert "No Docker engine answers" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_engine_and_touches_nothing(tmp_path: Path) -> None:
    done = run("build", "--dry-run", "--scheme", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gemma3-270m_q4_block32_ekv1024.task" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_the_same_in_every_run_and_speaks_json(tmp_path: Path) -> None:
    first = run("plan", "--json", cwd=tmp_path).stdout  # as it was called before
    assert first == run("build", "--dry-run", "--json", cwd=tmp_path).stdout
    assert [step["name"] for step in json.loads(first)["steps"]][:3] == [
        "import",
        "check",
        "export",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--scheme", "int2"), ErrorCode.UNKNOWN_NAME, "The scheme 'int2' is unknown"),
        (("--model", "gemma4"), ErrorCode.UNKNOWN_NAME, "The model 'gemma4' is unknown"),
        (("--model", "gemma3-1b-it"), ErrorCode.DRIFT, "Run `gemma3build lock gemma3-1b-it`"),
        (("--kv-cache-max-len", "128"), ErrorCode.REQUEST, "leave no room for an answer"),
        (("--scheme", "gone.toml"), ErrorCode.CONFIG, "there is no such file"),
        (("--kv-cache-max-len", "0"), ErrorCode.REQUEST, "leave no room for an answer"),
        (("--name", ""), ErrorCode.REQUEST, "'' is not a name for a release"),
        (("--model", ""), ErrorCode.UNKNOWN_NAME, "The model '' is unknown"),
        (
            ("--model", "gemma3-270m", "--checkpoint", "nowhere"),
            ErrorCode.REQUEST,
            "`--model` and `--checkpoint` cannot be used together",
        ),
        (("--name", "m.refused"), ErrorCode.REQUEST, "for releases that the gate rejected"),
        (("--checkpoint", "nowhere"), ErrorCode.REQUEST, NO_FOLDER),
        (("--checkpoint", "/nowhere/at/all"), ErrorCode.REQUEST, NO_FOLDER),
        (
            ("--checkpoint", "you/tuned"),
            ErrorCode.REQUEST,
            "`hf download you/tuned --local-dir DIR`",
        ),
        (("--checkpoint", "."), ErrorCode.CHECKPOINT_CONFIG, "it has no config.json"),
        (("--memory", "lots"), ErrorCode.REQUEST, "'lots' is not a size"),
    ],
)
def test_a_wrong_request_has_its_own_sentence_and_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: ErrorCode, message: str
) -> None:
    done = run("build", *arguments, cwd=tmp_path)
    assert (done.returncode, message in done.stderr) == (code.exit_code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    done = run("build", "--frobnicate", cwd=tmp_path)
    assert (done.returncode, "No such option" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_lists_speak_json() -> None:
    models = json.loads(run("models", "--json").stdout)
    assert models["gemma3-270m"]["locked"]
    assert not models["gemma3-1b-it"]["locked"]
    assert json.loads(run("schemes", "--json").stdout)["fp16"]["attention"]["bits"] == 16


def test_the_size_of_the_cache_is_that_of_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    (tmp_path / "datasets" / "digest").mkdir(parents=True)
    (tmp_path / "datasets" / "digest" / "file").write_bytes(b"x" * 1000)
    cache_size(as_json=True)
    parts = json.loads(capsys.readouterr().out)["bytes"]
    assert parts == {"steps": 0, "staging": 0, "datasets": 1000, "wheels": 0, "images": 0}


def test_every_code_of_a_step_is_one_of_the_host() -> None:
    assert {code.value for code in StepErrorCode} <= {code.value for code in ErrorCode}
    assert all(ErrorCode[code.name].value == code.value for code in StepErrorCode)


def test_no_code_takes_the_exit_code_of_success_or_of_usage() -> None:
    assert [code for code in ErrorCode if code.exit_code in (0, 2)] == [ErrorCode.USAGE]


def test_a_failed_step_carries_the_words_of_the_step() -> None:
    failure = StepFailure(code="values", what="W", why="because", hint="H.")
    assert str(from_step(failure)) == "W: because. H."


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        ("100", 100),
        ("2K", 2048),
        ("3m", 3 << 20),
        ("1G", 1 << 30),
        ("8GB", 8 << 30),
        ("8GiB", 8 << 30),
        ("10b", 10),
    ],
)
def test_sizes_are_read(text: str | None, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "1T",
        "-1",
        "1.5G",
        "x1",
        "0",
        "0G",
        "8²",
        "²",
        "٣",
        "8GG",
        "8G\n",
        "8\u212a",
        "9" * 5000,
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with raises(ErrorCode.REQUEST, match="is not a size"):
        parse_size(text)


def step(memory: int, disk: int) -> Step:
    return Step(name="s", module="i.m", parameters={}, inputs={}, memory=memory, disk=disk)


def test_a_build_that_cannot_fit_never_starts(tmp_path: Path) -> None:
    check_memory((step(5, 0),), 5)
    with raises(ErrorCode.MEMORY, match="not enough memory for s"):
        check_memory((step(6, 0),), 5)
    check_disk(2, tmp_path)
    with raises(ErrorCode.DISK, match="GiB are free"):
        check_disk(1 << 60, tmp_path)


def test_an_output_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "release")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with raises(ErrorCode.OUTPUT):
            check_output(folder)


def test_the_place_of_a_refused_release_is_looked_at_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "m.refused").mkdir()
    check_output(tmp_path / "m")
    (tmp_path / "m.refused" / "mine.txt").touch()
    with raises(ErrorCode.OUTPUT, match="m.refused is in the way"):
        check_output(tmp_path / "m")
    with raises(ErrorCode.OUTPUT, match="m.refused is no place for a release"):
        check_output(tmp_path / "m.refused")


def test_only_a_release_or_an_empty_directory_is_ever_replaced(tmp_path: Path) -> None:
    check_output(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "gemma3build.manifest/1"}')
    (tmp_path / "model.tflite").write_text("")
    check_output(tmp_path)
    for text in ("{", "[]", '{"format": "of something else"}'):
        (tmp_path / "manifest.json").write_text(text)
        with raises(ErrorCode.OUTPUT, match="it holds other things than a release"):
            check_output(tmp_path)


def test_what_a_broken_model_said_is_no_markup() -> None:
    check = Check(name="bundle", measured="[/b] [red]", allowed="text", passed=False)
    console = make_console()
    with console.capture() as shown:
        console.print(checks_table({"dynamic_int8": (check,)}))
    assert "[/b] [red]" in shown.get()


def test_json_names_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [sys.executable, "-m", "gemma3build", "verify", b"no\xff", "--json"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert "no\udcff" in json.loads(done.stdout)["error"]["why"]
    assert done.returncode == 6


def test_a_defect_shows_no_address_to_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> NoReturn:
        raise RuntimeError("GET https://cdn.example/file?X-Amz-Signature=SECRET")

    monkeypatch.setattr("gemma3build.cli.lock.load_models", fail)
    monkeypatch.setattr(sys, "argv", ["gemma3build", "models", "--json"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(RuntimeError):
        main()
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["why"]) == ("internal", "RuntimeError: GET (an address)")
