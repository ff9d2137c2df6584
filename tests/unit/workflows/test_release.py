"""The release pipeline: the order of its stages, what it does again, and what stops it.

Steps do not run here. Signing, checking, the index and the Hub's client are real.
"""

import contextlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from gemma3build.cli.app import app
from gemma3build.errors import BuildError, ErrorCode, from_step
from gemma3build.release.checksums import SIGNATURE
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.step import StepFailure
from gemma3build.workflows import release as pipeline
from gemma3build.workflows.evaluate import EvaluationRequest
from gemma3build.workflows.preflight import error_context
from tests.support.pipeline import CLEAN, LATER, NAMES, Works, content, done, failed, run
from tests.support.release import TFLITE, edit_json
from tests.unit.verify.test_signature import write_key

STEP = from_step(StepFailure(code="internal", what="W", why="because", hint="H."))


def test_each_release_goes_through_all_stages_in_their_order(works: Works, tmp_path: Path) -> None:
    found = done()
    assert works.ran == [
        f"{stage} {name}" for name in NAMES for stage in ("build", "evaluate", "sign")
    ]
    folder = tmp_path / "artifacts" / "v1"
    assert sorted(path.name for path in folder.iterdir()) == [
        "index.html",
        "index.json",
        *sorted(NAMES),
    ]
    assert [item["ran"] for item in found["releases"]] == [["build", "evaluate", "sign"]] * 2
    assert all(item["signed"]["checked"] for item in found["releases"])
    index = json.loads((folder / "index.json").read_text())
    assert [item["name"] for item in index["releases"]] == list(NAMES)
    assert index["commit"] == CLEAN.commit
    for name in NAMES:
        command = ["verify", str(folder / name), "--key", "release.pub"]
        assert CliRunner().invoke(app, command).exit_code == 0


def test_what_is_done_is_not_done_again(works: Works, tmp_path: Path) -> None:
    assert not done()["idle"]
    before = content(tmp_path / "artifacts")
    works.ran.clear()
    found = done()
    assert works.ran == [f"build {name}" for name in NAMES]
    assert found["idle"]
    assert [item["ran"] for item in found["releases"]] == [[], []]
    assert content(tmp_path / "artifacts") == before
    said = run("--key", "release.key").stdout
    assert "Nothing to do: v1 is up to date." in said


def test_a_summary_says_what_would_publish(works: Works, tmp_path: Path) -> None:
    said = run("--key", "release.key").stdout
    assert "0.668" not in said  # in percent
    assert "66.8 ± 1.1" in said
    assert "short: 4 files, verified, signed by " in said
    folder = tmp_path / "artifacts" / "v1"
    for name in NAMES:
        assert f"gemma3build publish {folder / name} --repo org/{name} --tag v1\n" in said
    assert "index.html" in said


def test_another_key_or_other_figures_are_signed_again(works: Works, tmp_path: Path) -> None:
    done()
    write_key(tmp_path / "other.key", ec.generate_private_key(ec.SECP384R1()))
    found = done(key=("--key", "other.key"))
    assert [item["ran"] for item in found["releases"]] == [["sign"]] * 2
    folder = tmp_path / "artifacts" / "v1" / "long"
    edit_json(folder / EVALUATION, lambda value: value["schemes"][0].pop("speed"))
    first, second = done(key=("--key", "other.key"))["releases"]
    assert (first["ran"], second["ran"]) == ([], ["evaluate", "sign"])


def test_a_signature_that_is_none_is_made_again_and_another_flaw_is_not_signed_over(
    works: Works, tmp_path: Path
) -> None:
    done()
    folder = tmp_path / "artifacts" / "v1" / "short"
    (folder / SIGNATURE).write_text("{}")
    assert done()["releases"][0]["ran"] == ["sign"]
    (folder / TFLITE).write_bytes(b"other")
    works.ran.clear()
    error = failed()
    assert error.code is ErrorCode.CHANGED
    assert "Where: short, verify" in error.__notes__[0]
    assert "sign short" not in works.ran


def test_unsigned_is_said_and_leaves_a_signature_as_it_is(works: Works, tmp_path: Path) -> None:
    found = done(key=("--unsigned",))
    assert [item["ran"] for item in found["releases"]] == [["build", "evaluate"]] * 2
    assert not any("signed" in item for item in found["releases"])
    assert "not signed" in run("--unsigned").stdout
    done()
    before = (tmp_path / "artifacts" / "v1" / "short" / SIGNATURE).read_bytes()
    found = done(key=("--unsigned",))
    assert not found["releases"][0]["signed"]["checked"]
    assert (tmp_path / "artifacts" / "v1" / "short" / SIGNATURE).read_bytes() == before


def test_questions_and_checkpoints_reach_the_evaluation(works: Works) -> None:
    done("--limit", "10")
    assert works.asked == [EvaluationRequest(limit=10)] * 2


@pytest.mark.parametrize("stage", ["build", "evaluate", "sign"])
@pytest.mark.parametrize("name", NAMES)
def test_what_fails_is_named_keeps_its_exit_code_and_goes_on_later(
    works: Works, tmp_path: Path, stage: str, name: str
) -> None:
    works.failures[f"{stage} {name}"] = STEP
    STEP.__notes__ = []
    error = failed()
    assert error is STEP
    assert error.code is ErrorCode.INTERNAL
    (note,) = error.__notes__
    assert note.startswith(f"Where: {name}, {stage}. The same command continues")
    folder = tmp_path / "artifacts" / "v1"
    assert not (folder / "index.json").exists()
    assert (folder / "short").exists() == (name == "long" or stage != "build")
    works.ran.clear()
    found = done()
    if name == "long":
        assert found["releases"][0]["ran"] == []
    assert (folder / "index.json").exists()


def test_a_signal_stops_the_pipeline_and_says_where(works: Works) -> None:
    works.failures["evaluate long"] = KeyboardInterrupt()
    error = failed()
    assert isinstance(error, BuildError)
    assert error.code is ErrorCode.INTERRUPTED
    assert error.__notes__ == ["Where: long, evaluate"]
    assert works.ran[-1] == "evaluate long"
    assert "finished steps are kept" in error.hint


def test_where_it_stopped_is_shown(
    works: Works, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gemma3build.cli.console import show_error

    error = BuildError(ErrorCode.MEMORY, "W", "because", "H.")
    with contextlib.suppress(BuildError), error_context("\x1bshort", pipeline.Stage.BUILD):
        raise error
    show_error(error)
    said = capsys.readouterr().err
    assert (
        "Where: ␛short, build. The same command continues there; finished stages are kept." in said
    )


def test_a_source_that_changes_meanwhile_stops_the_pipeline(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = iter([CLEAN, CLEAN, LATER])
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: next(sources))
    error = failed()
    assert error.code is ErrorCode.SOURCE
    assert "Where: long, build" in error.__notes__[0]
    assert works.ran == ["build short", "evaluate short", "sign short"]


def test_a_dry_run_prints_plans_and_touches_nothing(works: Works, tmp_path: Path) -> None:
    before = content(tmp_path)
    said = run("--key", "release.key", "--dry-run", "--publish").stdout
    assert said.count("then measure, sign, verify; in ") == 2
    assert "short: " in said
    assert "publish to org/long" in said
    assert "quantize-dynamic_int8" in said
    found = done("--dry-run")
    assert [item["repo"] for item in found["releases"]] == ["org/short", "org/long"]
    assert found["releases"][1]["plan"]["parameters"]["kv_cache_max_len"] == 2048
    assert content(tmp_path) == before
    assert works.ran == []
