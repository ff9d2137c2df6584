"""`gemma3build evaluate` on a release of the tiny checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from gemma3build.errors import ErrorCode
from gemma3build.schema.evaluation import EVALUATION, REPORT, Evaluation
from gemma3build.util.serialize import decode_json
from tests.conftest import SHAPES, Command

pytestmark = pytest.mark.integration

QUESTIONS = [
    ("keep soup warm", "put it in a sieve", "put it in a flask", 1),
    ("dry a wet shoe", "fill it with paper", "fill it with water", 0),
    ("hang a picture", "a nail", "a noodle", 0),
]


def questions(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"goal": goal, "sol1": one, "sol2": two} for goal, one, two, _ in QUESTIONS]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "valid.jsonl").write_text(text)
    (folder / "valid-labels.lst").write_text("".join(f"{label}\n" for *_, label in QUESTIONS))
    return folder


def read(release: Path) -> Evaluation:
    return decode_json(Evaluation, (release / EVALUATION).read_bytes(), EVALUATION)


@pytest.fixture
def command(warm_cache: Path, tmp_path: Path) -> Command:
    return Command(shutil.copytree(warm_cache, tmp_path / "cache"), tmp_path)


@pytest.fixture
def build(tiny: Path) -> tuple[str, ...]:
    return ("build", "--checkpoint", str(tiny), "--scheme", "dynamic_int8", *SHAPES)


def test_figures_enter_the_release_and_stay_there(
    command: Command, build: tuple[str, ...], tiny: Path
) -> None:
    release = Path(command.json(*build)["release"])
    before = {path.name: path.read_bytes() for path in release.iterdir()}
    piqa = questions(command.folder / "piqa")
    arguments = ("evaluate", "artifacts/tiny", "--checkpoint", str(tiny), "--piqa", str(piqa))
    done = command.run(*arguments, "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert "first 2 of 3 own questions" in done.stdout
    assert str(release / REPORT) in done.stdout
    (scheme,) = read(release).schemes
    assert scheme.piqa is not None
    assert (scheme.piqa.questions, scheme.piqa.of) == (2, 3)
    assert scheme.speed is not None
    assert scheme.speed.runs == 5
    assert min(scheme.speed.prefill, scheme.speed.decode, scheme.speed.peak_memory) > 0
    assert b"first 2 of 3 own questions" in (release / REPORT).read_bytes()
    after = {path.name: path.read_bytes() for path in release.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {EVALUATION, REPORT}
    # The same files built again are still measured ones; other files are not.
    assert command.json(*build)["idle"]
    assert read(release).schemes == (scheme,)
    (release / "stray.txt").touch()
    assert not command.json(*build)["idle"]
    assert read(release).schemes == (scheme,)
    # Questions are asked once, speed is measured again.
    again = command.run(*arguments, "--limit", "2")
    assert "piqa-dynamic_int8  kept from before" in again.stderr
    assert "speed-dynamic_int8 …" in again.stderr
    compared = command.run("evaluate", "--compare", "artifacts/tiny", "artifacts/tiny")
    assert compared.stdout.count("first 2 of 3 own questions") == 2
    assert list(command.json("evaluate", "--compare", "artifacts/tiny", "artifacts/tiny")) == [
        str(release)
    ]


def test_what_cannot_be_evaluated_is_refused_before_the_long_work(
    command: Command, build: tuple[str, ...], tiny: Path
) -> None:
    release = Path(command.json(*build)["release"])
    piqa = questions(command.folder / "piqa")
    broken = questions(command.folder / "broken")
    (broken / "valid-labels.lst").write_text("0\n1\n")
    cases = {
        ("nowhere",): (6, "is not a release"),
        ("artifacts/tiny", "--piqa", str(piqa)): (6, "--checkpoint DIR"),
        ("artifacts/tiny", "--piqa", str(broken), "--checkpoint", str(tiny)): (6, "2 labels"),
        ("artifacts/tiny", "--piqa", "gone", "--checkpoint", str(tiny)): (6, "No such file"),
    }
    for arguments, (code, words) in cases.items():
        done = command.run("evaluate", *arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "…" not in done.stderr
    (bundle,) = release.glob("*.task")
    content = bytearray(bundle.read_bytes())
    content[-1] ^= 1
    bundle.unlink()
    bundle.write_bytes(content)
    done = command.run("evaluate", "artifacts/tiny", "--piqa", str(piqa), "--checkpoint", str(tiny))
    assert done.returncode == ErrorCode.DAMAGED.exit_code
    assert bundle.name in done.stderr
