"""Evaluate an untrusted release."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from benchmarks.bench import Quiet
from gemma3build.cli.evaluate import evaluate as evaluate_command
from gemma3build.cli.results import show_evaluations
from gemma3build.engine.cache import Cache
from gemma3build.engine.executor import FinishedStep
from gemma3build.engine.inputs import ChainedInputs
from gemma3build.engine.preflight import check_writable
from gemma3build.errors import ErrorCode
from gemma3build.gemma.piqa import data_digest
from gemma3build.pins.config import load_models
from gemma3build.pins.lockfile import ModelsLock
from gemma3build.release.directory import write_measured
from gemma3build.release.evaluation import manifest_digest, merge, read_evaluation
from gemma3build.report.measurement import differing_conditions
from gemma3build.report.report import measured_files
from gemma3build.schema.evaluation import (
    EVALUATION,
    PIQA_FILE,
    REPORT,
    SPEED_FILE,
    Evaluation,
    Piqa,
    SchemeEvaluation,
    Speed,
)
from gemma3build.schema.manifest import MANIFEST, Manifest
from gemma3build.schema.scheme import Scheme
from gemma3build.schema.step import StepResult
from gemma3build.util.files import FileDigest
from gemma3build.util.serialize import pretty_json
from gemma3build.workflows.evaluate import (
    REFUSAL,
    EvaluatedRelease,
    EvaluationRequest,
    evaluate,
    is_measured,
    read_release,
    says_enough,
)
from gemma3build.workflows.request import (
    OTHER_VERSION,
    OwnCheckpoint,
    find_scheme,
    prepare_again,
    refuse_other_files,
)
from tests.support.errors import raises
from tests.support.release import edit_json, figures, write_release
from tests.unit.report.test_report import MACHINE, gate, piqa, sample, scheme, speed

INT8 = "dynamic_int8"


def measured() -> tuple[Manifest, Evaluation]:
    return sample(scheme(INT8, 9, gate(kl=0.1, text="t"), piqa(0.6), speed(9, 9, 9)))


def write(folder: Path, manifest: Manifest, evaluation: Evaluation) -> Path:
    folder.mkdir(exist_ok=True)
    evaluation = structs.replace(evaluation, manifest=manifest_digest(manifest))
    (folder / MANIFEST).write_bytes(pretty_json(manifest))
    (folder / EVALUATION).write_bytes(pretty_json(evaluation))
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write(tmp_path / "release", *measured())


def test_a_release_is_read_with_its_figures(release: Path) -> None:
    manifest, evaluation = measured()
    found = read_release(release)
    assert found.manifest == manifest
    assert found.evaluation.schemes == evaluation.schemes


NO_MATCH = "no evaluation.json that matches its manifest"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: found["schemes"][0]["bundle"].update(sha256="0" * 64),
            "names a 'gemma3-270m_dynamic_int8_ekv1024.task' that is not in the manifest",
        ),
        (
            lambda found: found["schemes"][0].update(scheme="fp16"),
            "names a 'gemma3-270m_dynamic_int8_ekv1024.tflite' that is not in the manifest",
        ),
        (lambda found: found["schemes"][0]["piqa"].update(acc=float("nan")), NO_MATCH),
        (lambda found: found.update(format="gemma3build.evaluation/2"), NO_MATCH),
    ],
)
def test_an_evaluation_that_does_not_go_with_its_release_is_refused(
    release: Path, change: Callable[[Any], object], message: str
) -> None:
    found = json.loads((release / EVALUATION).read_bytes())
    change(found)
    (release / EVALUATION).write_text(json.dumps(found))  # edit_json would reject NaN
    with raises(ErrorCode.REQUEST, match=message):
        read_release(release)


@pytest.mark.parametrize("path", ["../secret.task", "/etc/passwd", "below/m.task", "..", ""])
def test_no_file_lies_outside_of_the_release(tmp_path: Path, path: str) -> None:
    manifest, evaluation = measured()
    (item,) = evaluation.schemes
    artifacts = tuple(
        structs.replace(record, path=path) if record.path == item.bundle.path else record
        for record in manifest.artifacts
    )
    moved = structs.replace(item, bundle=structs.replace(item.bundle, path=path))
    folder = write(
        tmp_path / "release",
        structs.replace(manifest, artifacts=artifacts),
        structs.replace(evaluation, schemes=(moved,)),
    )
    with raises(ErrorCode.REQUEST, match=r"artifacts\[0\].path: expected text of the form"):
        read_release(folder)


@pytest.mark.parametrize(
    ("schemes", "message"),
    [
        ({}, f"its manifest has no scheme '{INT8}'"),
        ({INT8: Scheme(name="other", suffix="q", summary="")}, "has 'other' under the name"),
    ],
)
def test_a_scheme_that_the_manifest_does_not_explain_is_refused(
    schemes: dict[str, Scheme], message: str
) -> None:
    manifest = structs.replace(measured()[0], schemes=schemes)
    with raises(ErrorCode.REQUEST, match=message):
        find_scheme(manifest, INT8, REFUSAL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda value: value["parameters"].update(prefill_seq_lens="many"),
            "manifest.json.parameters.prefill_seq_lens: expected a list, found str",
        ),
        (lambda value: value["schemes"][INT8].update(bits=3), r"schemes\[...\].bits: unknown key"),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    release: Path, change: Callable[[Any], object], message: str
) -> None:
    edit_json(release / MANIFEST, change)
    with raises(ErrorCode.REQUEST, match=message):
        read_release(release)


def test_a_pinned_model_that_is_not_locked_here_is_to_be_locked_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "gemma3build.workflows.request.read_models_lock", lambda: ModelsLock(models={})
    )
    manifest = measured()[0]
    pinned = load_models()["gemma3-1b-it"].hub
    assert pinned is not None
    for revision, hint in (
        (pinned.revision, "gemma3build lock gemma3-1b-it"),
        ("0" * 40, OTHER_VERSION),
    ):
        checkpoint = structs.replace(manifest.checkpoint, source=pinned.repo, revision=revision)
        with raises(ErrorCode.DRIFT if hint != OTHER_VERSION else ErrorCode.REQUEST) as caught:
            prepare_again(
                structs.replace(manifest, checkpoint=checkpoint), OwnCheckpoint(), REFUSAL
            )
        assert hint in caught.value.hint


def quick() -> Piqa:
    return piqa(0.5, questions=100)


@pytest.mark.parametrize(
    ("there", "now", "kept"),
    [
        (None, quick(), quick()),
        (quick(), piqa(0.6), piqa(0.6)),
        (piqa(0.6), quick(), piqa(0.6)),
        (piqa(0.6), piqa(0.7), piqa(0.7)),
        (piqa(0.6), piqa(0.9, own=True), piqa(0.6)),
        (piqa(0.9, own=True), quick(), piqa(0.9, own=True)),
        (piqa(0.6), None, piqa(0.6)),
    ],
)
def test_a_figure_gives_way_to_none_that_says_less(
    there: Piqa | None, now: Piqa | None, kept: Piqa
) -> None:
    def of(found: Piqa | None, decode: float) -> Evaluation:
        return sample(scheme(INT8, 9, gate(kl=0.1, text="t"), found, speed(9, decode, 9)))[1]

    (item,) = merge(of(there, 1.0), of(now, 2.0)).schemes
    assert item.piqa == kept
    assert item.speed == speed(9, 2.0, 9)


class Measuring:
    """Stands for a runner; another process may change the release while it measures."""

    def __init__(self, root: Path, figures: Piqa, meanwhile: Any = lambda: None) -> None:
        self.cache, self.sources = Cache(root), dict[str, str]()
        self.said: list[str] = []
        self.say = self.said.append
        self._figures, self._meanwhile = figures, meanwhile

    def run(self, *_: object) -> dict[str, FinishedStep]:
        self._meanwhile()
        results: dict[str, Piqa | Speed] = {
            f"piqa-{INT8}": self._figures,
            f"speed-{INT8}": speed(9, 2.0, 9),
        }
        return {name: self._commit(name, found) for name, found in results.items()}

    def _commit(self, name: str, found: Piqa | Speed) -> FinishedStep:
        file = PIQA_FILE if isinstance(found, Piqa) else SPEED_FILE
        (self.cache.stage(name) / "output" / file).write_bytes(pretty_json(found))
        entry = self.cache.commit(name, name, StepResult(seconds=1.0, peak_memory=1))
        return FinishedStep(key=name, entry=entry, cached=False)


def run(release: Path, runner: Any) -> Evaluation:
    inputs = ChainedInputs({}, fallback=runner)
    return evaluate(read_release(release), (), inputs, runner, Quiet()).evaluation


def test_a_quick_look_is_shown_and_the_full_figure_stays(release: Path, tmp_path: Path) -> None:
    runner = Measuring(tmp_path / "cache", quick())
    (shown,) = run(release, runner).schemes
    assert shown.piqa == quick()
    (kept,) = read_release(release).evaluation.schemes
    assert kept.piqa == piqa(0.6)
    assert kept.speed == shown.speed == speed(9, 2.0, 9)
    assert runner.said == [f"{INT8}: the release keeps PIQA on all 1,838 questions"]
    assert b"0.600" in (release / REPORT).read_bytes()


def test_figures_that_another_evaluation_wrote_meanwhile_are_not_lost(tmp_path: Path) -> None:
    manifest, _ = measured()
    bare = scheme(INT8, 9, gate(kl=0.1, text="t"))
    release = write(tmp_path / "release", manifest, sample(bare)[1])

    def full_evaluation() -> None:
        write(release, *measured())

    run(release, Measuring(tmp_path / "cache", quick(), full_evaluation))
    assert read_release(release).evaluation.schemes[0].piqa == piqa(0.6)


def test_a_release_that_another_build_replaced_is_left_alone(release: Path, tmp_path: Path) -> None:
    manifest, evaluation = measured()
    other = structs.replace(manifest, terms=("Notice",))
    runner = Measuring(tmp_path / "cache", quick(), lambda: write(release, other, evaluation))
    with raises(ErrorCode.REQUEST, match="another build replaced"):
        run(release, runner)
    assert read_release(release).manifest == other


@pytest.mark.parametrize("broken", [REPORT, EVALUATION])
def test_figures_that_cannot_be_written_leave_those_of_before_and_no_litter(
    release: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, evaluation = measured()
    before = (release / EVALUATION).read_bytes()
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == broken:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with raises(ErrorCode.DISK, match="cannot be written"):
        write_measured(measured_files(manifest, evaluation), release)
    assert (release / EVALUATION).read_bytes() == before
    assert (release / REPORT).exists() == (broken == EVALUATION)
    assert [path.name for path in release.parent.iterdir()] == ["release"]


def test_a_folder_that_takes_no_file_is_found_before_the_measuring(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert not any(tmp_path.iterdir())
    with raises(ErrorCode.OUTPUT, match="cannot be written"):
        check_writable(tmp_path, Path("/proc/self"))


def test_a_release_with_a_tokenizer_of_its_own_asks_for_it(tmp_path: Path) -> None:
    def files(config: str, tokenizer: str = "") -> tuple[FileDigest, ...]:
        texts = {"config.json": config, "tokenizer.model": tokenizer}
        found = (FileDigest(path=name, size=1, sha256=text) for name, text in texts.items() if text)
        return tuple(found)

    release = files("1", "1")
    refuse_other_files(release, release, tmp_path, REFUSAL)
    for found in (files("1", "2"), files("1")):
        with raises(ErrorCode.REQUEST, match="another tokenizer.model than that of") as caught:
            refuse_other_files(found, release, tmp_path, REFUSAL)
        assert "--tokenizer FILE" in caught.value.hint
    with raises(ErrorCode.REQUEST, match="is not the checkpoint") as caught:
        refuse_other_files(files("2", "2"), release, tmp_path, REFUSAL)
    assert "--tokenizer" not in caught.value.hint


def elsewhere(item: SchemeEvaluation, **changes: Any) -> SchemeEvaluation:
    """The same figures, measured under other conditions."""
    assert item.speed is not None
    return structs.replace(item, speed=structs.replace(item.speed, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"machine": structs.replace(MACHINE, cpu="Ampere Altra")}, "Ampere Altra, 2 cores"),
        ({"runtime": {"litert-lm-api": "0.19.0"}}, "litert-lm-api 0.19.0"),
        ({"threads": 1}, "1 thread"),
    ],
)
def test_releases_that_were_not_measured_alike_are_not_compared_without_a_word(
    tmp_path: Path, changes: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, evaluation = measured()
    (item,) = evaluation.schemes
    one = write(tmp_path / "one", manifest, evaluation)
    changed = structs.replace(evaluation, schemes=(elsewhere(item, **changes),))
    other = write(tmp_path / "other", manifest, changed)
    evaluate_command(compare=(one, other))
    said = capsys.readouterr().out
    assert f"Speed and memory of {INT8} was measured under different" in said
    assert words in said
    assert said.count("was measured under different") == 1
    evaluate_command(compare=(one, one))
    assert "under different" not in capsys.readouterr().out


@pytest.mark.parametrize("more", [{"release": Path("c")}, {"limit": 100}, {"memory": "8G"}])
def test_what_a_comparison_would_ignore_is_refused(more: dict[str, Any]) -> None:
    with raises(ErrorCode.REQUEST, match="takes two releases and `--json` only"):
        evaluate_command(compare=(Path("a"), Path("b")), **more)


def test_what_a_release_says_is_no_markup_and_rules_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, evaluation = sample(scheme("[/b]\x1b[2J", 9, gate(kl=0.1, text="t")))
    folder = tmp_path / "[red]"
    found = EvaluatedRelease(folder=folder, evaluation=evaluation, manifest=manifest)
    show_evaluations([found, found], as_json=False)
    said = capsys.readouterr().out
    assert "[/b]␛[2J" in said
    assert "[red]" in said


def test_other_questions_are_told_apart_though_there_are_as_many() -> None:
    _, evaluation = measured()
    (item,) = evaluation.schemes
    assert item.piqa is not None
    changed = structs.replace(item, piqa=structs.replace(item.piqa, data="0" * 64))
    (found,) = differing_conditions(evaluation, structs.replace(evaluation, schemes=(changed,)))
    assert found.second.how == f"all 1,838 questions, SHA-256 {'0' * 16}"
    assert found.schemes == (INT8,)


def test_what_only_one_release_has_is_not_compared() -> None:
    bare = sample(scheme(INT8, 9, gate(kl=0.1, text="t")))[1]
    assert differing_conditions(measured()[1], bare) == ()
    assert differing_conditions(measured()[1], sample()[1]) == ()


OWN = (["a", "b", "c"], ["0", "1", "1"])


def own_figure(asked: int) -> Any:
    found = structs.replace(piqa(0.5, own=True), questions=asked, of=3)
    return structs.replace(found, data=data_digest(*(lines[:asked] for lines in OWN)))


@pytest.mark.parametrize(
    ("figure", "own", "limit", "enough"),
    [
        (None, None, None, False),
        (piqa(0.5), None, None, True),
        (piqa(0.5), None, 10, True),
        (piqa(0.5), OWN, None, True),
        (piqa(0.5, questions=100), None, None, False),
        (piqa(0.5, questions=100), None, 100, True),
        (piqa(0.5, questions=100), None, 101, False),
        (piqa(0.5, questions=100), None, 1838, False),
        (piqa(0.5, questions=100), OWN, 2, False),
        (own_figure(3), OWN, None, True),
        (own_figure(3), OWN, 2, True),
        (own_figure(3), OWN, 9, True),
        (own_figure(3), (["a", "b", "d"], OWN[1]), None, False),
        (own_figure(3), None, None, False),
        (own_figure(3), None, 10, True),
        (own_figure(2), OWN, 2, True),
        (own_figure(2), OWN, None, False),
        (own_figure(2), (["a", "x", "c"], OWN[1]), 2, False),
        (own_figure(2), None, 10, False),
    ],
)
def test_a_figure_is_kept_where_it_says_what_was_asked_or_more(
    figure: Any,
    own: Any,
    limit: int | None,
    enough: bool,  # noqa: FBT001
) -> None:
    assert says_enough(figure, own, limit) == enough


def test_a_release_without_speed_is_not_measured(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "m")
    runner: Any = None

    def known() -> bool:
        found = read_evaluation(folder)
        assert found is not None
        return is_measured(found, EvaluationRequest(), runner)

    def change(**values: Any) -> None:
        edit_json(folder / EVALUATION, lambda found: [s.update(values) for s in found["schemes"]])

    assert not known()
    change(**figures("a"))
    assert known()
    change(speed=None)
    assert not known()
