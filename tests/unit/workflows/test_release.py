"""The whole line: its refusals, the order of its parts, what it does again, and what stops it.

Steps do not run here: a release appears as if they had. Signing, checking, the index and the Hub's
client are real.
"""

import contextlib
import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from huggingface_hub.utils import enable_progress_bars
from typer.testing import CliRunner, Result

from gemma3build.cli.app import app
from gemma3build.engine import preflight
from gemma3build.engine.cache import Cache
from gemma3build.errors import BuildError, ErrorCode, from_step
from gemma3build.plan.build import artifacts_size
from gemma3build.plan.evaluation import expect_evaluation
from gemma3build.plan.graph import Step
from gemma3build.release.checksums import SIGNATURE
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.schema.step import StepFailure
from gemma3build.util.git import GitRevision, would_change
from gemma3build.verify import signature
from gemma3build.verify.verify import verify
from gemma3build.workflows import release as line
from gemma3build.workflows.evaluate import EvaluationRequest
from gemma3build.workflows.preflight import error_context
from gemma3build.workflows.release_file import plan_releases
from tests.support.hub import Hub, User
from tests.support.publishing import name_source
from tests.support.release import TFLITE, edit_json, figures, write_release
from tests.unit.verify.test_signature import write_key

CLEAN = GitRevision(commit="c" * 40, dirty=False)
LATER = GitRevision(commit="d" * 40, dirty=False)
NAMES = ("short", "long")
FILE = """
[[release]]
model = "gemma3-270m"
name = "short"
repo = "org/short"

[[release]]
model = "gemma3-270m"
name = "long"
kv_cache_max_len = 2048
repo = "org/long"
"""
STEP = from_step(StepFailure(code="internal", what="W", why="because", hint="H."))


class Works:
    """Stands for the steps: what ran, and what goes wrong at a part of a release."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.ran, self.failures = cache, list[str](), dict[str, BaseException]()
        self.asked: list[EvaluationRequest] = []
        self.unfit: set[str] = set()
        self.there: set[str] = set()
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self.unavailable = False
        self.own = False

    def run(self, part: str, folder: Path) -> None:
        self.ran.append(f"{part} {folder.name}")
        self.meanwhile.pop(self.ran[-1], lambda: None)()
        if failure := self.failures.pop(self.ran[-1], None):
            raise failure

    def fitting(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        for name in self.unfit:
            if any(step.name == name for step in steps):
                raise BuildError(
                    ErrorCode.MEMORY, "There is not enough memory", "it is small", "Get more."
                )
        missing = tuple(step for step in steps if step.fresh or step.name not in self.there)
        preflight.check_disk(sum(step.disk for step in missing), self.cache.root)
        return missing

    def say(self, text: str) -> None:
        self.ran.append(text)

    def ensure(self, _: object, folder: Path, *__: object) -> Any:
        self.run("build", folder)
        idle = folder.exists()
        if not idle:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_release(folder)
            name_source(folder)
        return SimpleNamespace(idle=idle)

    def prepare(self, _: object, request: EvaluationRequest, *__: object) -> Any:
        self.asked.append(request)
        return (), None

    def evaluate(self, found: Any, *_: object) -> None:
        self.run("evaluate", found.folder)
        (found.folder / SIGNATURE).unlink(missing_ok=True)

        def change(evaluation: Any) -> None:
            for scheme in evaluation["schemes"]:
                scheme.update(figures("a processor"))

        edit_json(found.folder / EVALUATION, change)

    def find_questions(self, *_: object) -> tuple[None, bool]:
        if self.unavailable:
            raise BuildError(
                ErrorCode.DOWNLOAD, "The dataset piqa cannot be fetched", "no network", "Mend it."
            )
        return None, self.own


@pytest.fixture
def works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Works:
    found = Works(Cache(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: CLEAN)
    monkeypatch.setattr(
        "gemma3build.engine.runner.open_runner", lambda *_: contextlib.nullcontext(found)
    )
    monkeypatch.setattr(line, "Builder", lambda *_: found)
    monkeypatch.setattr(line, "prepare_evaluation", found.prepare)
    monkeypatch.setattr(line, "evaluate", found.evaluate)
    monkeypatch.setattr(line, "find_questions", found.find_questions)
    signed = signature.sign

    def sign(verified: Any, signer: Any) -> None:
        found.run("sign", verified.folder.path)
        signed(verified, signer)

    monkeypatch.setattr(signature, "sign", sign)
    write_key(tmp_path / "release.key", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "releases.toml").write_text(FILE)
    return found


@pytest.fixture
def writer(hub: Hub, works: Works, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub.users["hf_secret"] = User("publisher", write=True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield hub
    enable_progress_bars()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["release", "releases.toml", "v1", *arguments])


def done(*arguments: str, key: tuple[str, ...] = ("--key", "release.key")) -> Any:
    found = run(*key, *arguments, "--json")
    assert found.exit_code == 0, found.exception
    return json.loads(found.stdout)


def failed(*arguments: str, key: tuple[str, ...] = ("--key", "release.key")) -> BuildError:
    error = run(*key, *arguments).exception
    assert isinstance(error, BuildError), repr(error)
    return error


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_each_release_goes_through_all_parts_in_their_order(works: Works, tmp_path: Path) -> None:
    found = done()
    assert works.ran == [
        f"{part} {name}" for name in NAMES for part in ("build", "evaluate", "sign")
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


def test_another_key_or_other_figures_are_signed_anew(works: Works, tmp_path: Path) -> None:
    done()
    write_key(tmp_path / "other.key", ec.generate_private_key(ec.SECP384R1()))
    found = done(key=("--key", "other.key"))
    assert [item["ran"] for item in found["releases"]] == [["sign"]] * 2
    folder = tmp_path / "artifacts" / "v1" / "long"
    edit_json(folder / EVALUATION, lambda value: value["schemes"][0].pop("speed"))
    first, second = done(key=("--key", "other.key"))["releases"]
    assert (first["ran"], second["ran"]) == ([], ["evaluate", "sign"])


def test_a_signature_that_is_none_is_made_anew_and_another_flaw_is_not_signed_over(
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


def test_questions_and_checkpoints_reach_the_evaluation(works: Works, tmp_path: Path) -> None:
    done("--limit", "10")
    assert works.asked == [EvaluationRequest(limit=10)] * 2


@pytest.mark.parametrize("part", ["build", "evaluate", "sign"])
@pytest.mark.parametrize("name", NAMES)
def test_what_fails_is_named_keeps_its_exit_code_and_goes_on_later(
    works: Works, tmp_path: Path, part: str, name: str
) -> None:
    works.failures[f"{part} {name}"] = STEP
    STEP.__notes__ = []
    error = failed()
    assert error is STEP
    assert error.code is ErrorCode.INTERNAL
    (note,) = error.__notes__
    assert note.startswith(f"Where: {name}, {part}. The same command goes on")
    folder = tmp_path / "artifacts" / "v1"
    assert not (folder / "index.json").exists()
    assert (folder / "short").exists() == (name == "long" or part != "build")
    works.ran.clear()
    found = done()
    if name == "long":
        assert found["releases"][0]["ran"] == []
    assert (folder / "index.json").exists()


def test_a_signal_stops_the_line_and_says_where(works: Works) -> None:
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
    with contextlib.suppress(BuildError), error_context("\x1bshort", line.Stage.BUILD):
        raise error
    show_error(error)
    said = capsys.readouterr().err
    assert "Where: ␛short, build. The same command goes on there; what was finished stays." in said


def test_a_source_that_changes_meanwhile_stops_the_line(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = iter([CLEAN, CLEAN, LATER])
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: next(sources))
    error = failed()
    assert error.code is ErrorCode.SOURCE
    assert "Where: long, build" in error.__notes__[0]
    assert works.ran == ["build short", "evaluate short", "sign short"]


REFUSALS: dict[str, tuple[tuple[str, ...], ErrorCode, str]] = {
    "no signer": ((), ErrorCode.REQUEST, "one of --key, --pkcs11, --sigstore and --unsigned"),
    "two signers": (("--key", "release.key", "--unsigned"), ErrorCode.REQUEST, "one of --key"),
    "no key": (("--key", "gone.key"), ErrorCode.SIGNING, "No such file"),
    "public key": (("--key", "release.pub"), ErrorCode.SIGNING, "has no private key"),
    "identity": (("--unsigned", "--identity", "a@b"), ErrorCode.REQUEST, "go with --sigstore"),
    "memory": (("--unsigned", "--memory", "lots"), ErrorCode.REQUEST, "a size is a number"),
    "more": (("--unsigned", "--model", "gemma4"), ErrorCode.UNKNOWN_NAME, "known are"),
    "twice": (
        ("--unsigned", "--model", "releases.toml"),
        ErrorCode.REQUEST,
        "more than one has the name",
    ),
    "one repo": (
        ("--unsigned", "--repo", "org/one"),
        ErrorCode.REQUEST,
        "would go to one repository",
    ),
    "output": (("--unsigned", "--output", "release.key"), ErrorCode.OUTPUT, "is not a directory"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_can_be_refused_is_refused_before_anything_is_done(
    works: Works, tmp_path: Path, case: str
) -> None:
    arguments, code, message = REFUSALS[case]
    error = failed(*arguments, key=())
    assert (error.code, message in error.why) == (code, True), error
    assert works.ran == []
    assert not (tmp_path / "artifacts").exists()


def test_an_output_that_would_change_the_checkout_is_refused_first(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("/artifacts/*\n")
    find = functools.partial(would_change, package=tmp_path / "gemma3build")
    monkeypatch.setattr("gemma3build.workflows.preflight.would_change", find)
    error = failed("--output", "out")
    assert (error.code, "git does not ignore it" in error.why) == (ErrorCode.OUTPUT, True)
    assert works.ran == []
    done("--output", "artifacts")


def test_what_cannot_be_run_is_refused_before_anything_is_done(works: Works) -> None:
    works.unfit.add("export")
    error = failed()
    assert (error.code, error.__notes__) == (ErrorCode.MEMORY, ["Where: short"])
    works.unfit.clear()
    works.unavailable = True
    assert failed().code is ErrorCode.DOWNLOAD
    assert works.ran == []
    works.unavailable = False
    done()
    works.unavailable = True  # and nobody asks
    assert done()["idle"]


def set_free(monkeypatch: pytest.MonkeyPatch, sizes: dict[Path, int]) -> None:
    """Make disks look as if they had this room."""

    def usage(path: Path) -> Any:
        return SimpleNamespace(free=next(sizes[top] for top in sizes if path.is_relative_to(top)))

    monkeypatch.setattr("gemma3build.engine.preflight.shutil.disk_usage", usage)


def test_releases_that_fit_one_at_a_time_and_not_together_are_refused_first(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_releases(["releases.toml"])[0].prepared.plan
    size = {step.name: step.disk for step in (*plan.steps, *expect_evaluation(plan))}
    one = sum(size.values())
    # What comes of the checkpoint alone is there once for both; the room to measure speed is free again.
    again = ("export", "quantize-dynamic", "bundle-", "package-", "gate-", "piqa-")
    both = one + sum(
        size[name] for name in size if name.startswith(again) and name != "export-score"
    )
    assert both < 2 * one
    for free in (one, both - 1):
        set_free(monkeypatch, {tmp_path: free})
        assert failed().code is ErrorCode.DISK
        assert works.ran == []
    set_free(monkeypatch, {tmp_path: one})
    alone("short", "--output", "other")
    works.there.add("import")
    set_free(monkeypatch, {tmp_path: both - size["import"]})
    done()
    set_free(monkeypatch, {tmp_path: 0})
    works.there |= size.keys()
    assert done()["idle"]


def test_copies_for_another_disk_are_counted_for_all_releases(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma3build.workflows.preflight.same_disk", lambda *_: False)
    works.cache.root.mkdir()
    plan = plan_releases(["releases.toml"])[0].prepared.plan
    size, plenty = artifacts_size(plan), 1 << 50
    set_free(monkeypatch, {tmp_path / "cache": plenty, tmp_path: 2 * size - 1})
    assert failed().code is ErrorCode.DISK
    set_free(monkeypatch, {tmp_path / "cache": plenty, tmp_path: 2 * size})
    done()


@pytest.mark.parametrize("source", [None, GitRevision(commit="c" * 40, dirty=True)])
def test_a_source_that_no_commit_has_is_refused_first(
    works: Works, monkeypatch: pytest.MonkeyPatch, source: GitRevision | None
) -> None:
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: source)
    assert (
        CliRunner().invoke(app, ["release", "gone.toml", "..", "--dry-run"]).exception is not None
    )
    error = failed("--dry-run")
    assert error.code is ErrorCode.SOURCE


def test_a_version_that_is_none_is_refused(works: Works) -> None:
    error = CliRunner().invoke(app, ["release", "releases.toml", "../v1", "--unsigned"]).exception
    assert isinstance(error, BuildError)
    assert (error.code, works.ran) == (ErrorCode.REQUEST, [])


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


def test_publishing_goes_on_and_does_nothing_twice(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    found = done("--publish")
    for name, item in zip(NAMES, found["releases"], strict=True):
        repo = writer.repos[f"org/{name}"]
        assert repo.refs["refs/tags/v1"] == item["published"]["commit"]
        files = repo.commits[item["published"]["commit"]].files
        folder = tmp_path / "artifacts" / "v1" / name
        assert {path.name for path in folder.iterdir()} <= files.keys()
        assert item["ran"][-1] == "publish"
    page = (tmp_path / "artifacts" / "v1" / "index.html").read_text()
    assert page.count(f"{writer.address}/org/") == 2
    before = content(tmp_path / "artifacts")
    writer.requests.clear()
    found = done("--publish")
    assert found["idle"]
    assert not any(request.startswith(("PUT", "POST")) for request in writer.requests)
    # Without --publish the index still knows.
    assert done()["releases"][0]["published"]["repo"] == "org/short"
    assert content(tmp_path / "artifacts") == before


def test_a_pattern_names_each_repository(writer: Hub, works: Works) -> None:
    done("--publish", "--repo", "org/{name}-litert", "--private")
    assert set(writer.repos) == {"org/short-litert", "org/long-litert"}
    assert all(repo.private for repo in writer.repos.values())


def test_one_that_cannot_be_published_lets_none_be(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    done()
    folder = tmp_path / "artifacts" / "v1" / "long"
    shutil.copy(folder / EVALUATION, tmp_path)
    name_source(folder, dirty=True)
    error = failed("--publish")
    assert error.code is ErrorCode.PUBLICATION
    assert "Where: long, publish" in error.__notes__[0]
    assert writer.repos == {}
    done("--publish", "--skip", "source")
    assert set(writer.repos) == {"org/short", "org/long"}


def test_a_tag_that_someone_makes_meanwhile_lets_none_be_published(
    writer: Hub, works: Works
) -> None:
    def make_tag() -> None:
        commit = writer.add("org/long", {"README.md": b"theirs"})
        writer.repos["org/long"].refs["refs/tags/v1"] = commit

    works.meanwhile["evaluate long"] = make_tag
    error = failed("--publish")
    assert (error.code, "has a tag v1 already" in error.why) == (ErrorCode.REQUEST, True)
    assert set(writer.repos) == {"org/long"}


def test_a_publication_that_stops_keeps_what_is_published(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    writer.fail("POST /api/models/org/long/commit/", status=403)
    error = failed("--publish")
    assert "Where: long, publish" in error.__notes__[0]
    index = json.loads((tmp_path / "artifacts" / "v1" / "index.json").read_text())
    assert [item.get("published", {}).get("repo") for item in index["releases"]] == [
        "org/short",
        None,
    ]
    found = done("--publish")
    assert [item["ran"] for item in found["releases"]] == [[], ["publish"]]


def test_a_card_that_was_edited_since_is_no_reason_to_publish_again(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    first = done("--publish")["releases"][1]["published"]
    repo = writer.repos["org/long"]
    repo.commit({**repo.commits[first["commit"]].files, "README.md": b"by hand"}, "Edit", "someone")
    found = done("--publish")
    assert found["idle"]
    assert found["releases"][1]["published"] == first
    folder = tmp_path / "artifacts" / "v1" / "long"
    edit_json(folder / EVALUATION, lambda value: value["schemes"][0].update(figures("another")))
    error = failed("--publish")
    assert (error.code, error.hint) == (ErrorCode.REQUEST, "Give another VERSION.")


def test_what_the_hub_would_refuse_is_refused_before_the_work(
    writer: Hub, works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "releases.toml").write_text(FILE.replace('repo = "org/long"', ""))
    error = failed("--publish")
    assert (error.code, error.__notes__) == (ErrorCode.REQUEST, ["Where: long"])
    assert "--repo OWNER/NAME" in error.hint
    (tmp_path / "releases.toml").write_text(FILE.replace("org/long", "org/a--b"))
    assert failed("--publish").code is ErrorCode.REQUEST
    (tmp_path / "releases.toml").write_text(FILE)
    first = writer.add("org/long", {"README.md": b"old"})
    assert failed("--publish", "--private").code is ErrorCode.REQUEST
    writer.repos["org/long"].refs["refs/tags/v1"] = first
    writer.repos["org/long"].commit({"README.md": b"new"}, "new", "someone")
    assert "has a tag v1 already" in failed("--publish").why
    monkeypatch.delenv("HF_TOKEN")
    assert failed("--publish").code is ErrorCode.LOGIN
    assert works.ran == []


def test_a_quick_look_is_not_published_before_the_work(writer: Hub, works: Works) -> None:
    assert failed("--publish", "--limit", "10").code is ErrorCode.REQUEST
    works.own = True
    assert "others or fewer" in failed("--publish").why
    assert works.ran == []
    done("--publish", "--limit", "10", "--skip", "piqa")
    # What says more is there now.
    works.own = False
    assert done("--publish", "--limit", "10")["idle"]


def alone(name: str, *arguments: str, version: str = "v1") -> tuple[Any, str]:
    """Release one of the file by itself; return what was done, and what was said beside it."""
    head, *tables = FILE.split("[[release]]")
    (table,) = (text for text in tables if f'name = "{name}"' in text)
    Path("one.toml").write_text(f"{head}[[release]]{table}")
    command = ["release", "one.toml", version, "--key", "release.key", "--json", *arguments]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.exception
    return json.loads(found.stdout), found.stderr


def indexed(folder: Path) -> dict[str, str]:
    """The index: where each release is published, by its name."""
    found = json.loads((folder / "index.json").read_text())["releases"]
    return {item["name"]: item.get("published", {}).get("repo", "") for item in found}


def test_the_index_keeps_what_another_run_released_and_published(
    writer: Hub, works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artifacts" / "v1"
    alone("short", "--publish")
    assert "any more" not in alone("long")[1]
    assert indexed(folder) == {"short": "org/short", "long": ""}
    assert 'id="release-2"' in (folder / "index.html").read_text()
    before = content(folder)
    assert alone("short")[0]["idle"]
    assert content(folder) == before
    verified: list[Path] = []

    def look(path: Path, **given: Any) -> Any:
        verified.append(path)
        return verify(path, **given)

    monkeypatch.setattr("gemma3build.report.index.verify", look)
    alone("long", "--publish")
    assert indexed(folder) == {"short": "org/short", "long": "org/long"}
    assert verified == [folder / "short"]  # once, though the index was written twice
    edit_json(folder / "short" / EVALUATION, lambda value: value["schemes"][0].pop("speed"))
    assert "What short was before is published: " in alone("short")[1]
    assert indexed(folder) == {"short": "", "long": "org/long"}


def test_another_run_that_publishes_meanwhile_is_not_forgotten(
    writer: Hub, works: Works, tmp_path: Path
) -> None:
    works.meanwhile["sign long"] = lambda: alone("short", "--publish")
    alone("long")
    assert indexed(tmp_path / "artifacts" / "v1") == {"short": "org/short", "long": ""}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (shutil.rmtree, "No such file"),
        (lambda folder: (folder / TFLITE).write_bytes(b"other"), f"{TFLITE} is not"),
        (lambda folder: (folder / SIGNATURE).unlink(), "not those that the index names"),
        (lambda folder: (folder / EVALUATION).unlink(), "not those that the index names"),
    ],
    ids=["gone", "changed", "unsigned", "unmeasured"],
)
def test_the_index_says_what_it_drops_and_why(
    writer: Hub, works: Works, tmp_path: Path, change: Callable[[Path], object], why: str
) -> None:
    folder = tmp_path / "artifacts" / "v1"
    published = alone("short", "--publish")[0]["releases"][0]["published"]
    change(folder / "short")
    said = " ".join(alone("long")[1].split())
    assert "short is not in index.json any more: " in said
    assert why in said
    assert f"What short was before is published: {published['url']}" in said
    assert indexed(folder) == {"long": ""}


def test_the_index_has_releases_of_one_commit_and_version(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone("short", "--output", "out")
    said = alone("long", "--output", "out", version="v2")[1]
    assert f"short is not in index.json any more: it is v1 of commit {'c' * 12}" in said
    alone("short", "--output", "out", version="v2")
    monkeypatch.setattr("gemma3build.workflows.build.find_revision", lambda: LATER)
    said = alone("long", "--output", "out", version="v2")[1]
    assert f"short is not in index.json any more: it is v2 of commit {'c' * 12}" in said
    assert indexed(tmp_path / "out") == {"long": ""}
    (tmp_path / "out" / "index.json").write_text("{}")
    assert "index.json cannot be read" in alone("long", "--output", "out", version="v2")[1]
