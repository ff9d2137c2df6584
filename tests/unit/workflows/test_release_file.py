"""What a person asks for: models by name, and the files that list releases."""

from pathlib import Path

import pytest

from gemma3build.errors import ErrorCode
from gemma3build.publish import check_tag
from gemma3build.schema.manifest import Parameters
from gemma3build.workflows.preflight import check_output_paths, find_repos
from gemma3build.workflows.release_file import PlannedRelease, load_releases, plan_releases
from tests.support.checkpoint import write_checkpoint
from tests.support.errors import raises
from tests.support.release import write_release

TWO = """
[[release]]
model = "gemma3-270m"
name = "short"
schemes = ["fp16", "mine.toml"]
prefill_seq_lens = [8, 16]
kv_cache_max_len = 64
mask_as_input = false
repo = "you/short"

[[release]]
model = "gemma3-270m"
"""
MINE = """
name = "mine"
suffix = "qm"
summary = "s"

[attention]
bits = 8
"""


def write(folder: Path, text: str) -> str:
    path = folder / "releases.toml"
    path.write_text(text)
    (folder / "mine.toml").write_text(MINE)
    return str(path)


def two(folder: Path) -> tuple[PlannedRelease, ...]:
    return plan_releases([write(folder, TWO)])


def test_a_file_lists_models_schemes_and_shapes(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    assert (first.name, first.repo) == ("short", "you/short")
    assert [scheme.name for scheme in first.prepared.plan.schemes] == ["fp16", "mine"]
    expected = Parameters(prefill_seq_lens=(8, 16), kv_cache_max_len=64, mask_as_input=False)
    assert first.prepared.plan.parameters == expected
    assert (second.name, second.repo) == ("gemma3-270m", "")
    (alone,) = plan_releases(["gemma3-270m"])
    assert second.prepared.plan == alone.prepared.plan


def test_paths_in_a_file_begin_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "tuned")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = '[[release]]\ncheckpoint = "tuned"\nschemes = ["mine.toml"]\nkv_cache_max_len = 200\n'
    (found,) = plan_releases([write(tmp_path, text)])
    assert found.name == "tuned"
    assert found.request.checkpoint == tmp_path / "tuned"
    (found,) = plan_releases([write(tmp_path, text + 'tokenizer = "tuned/tokenizer.model"\n')])
    assert found.request.tokenizer == tmp_path / "tuned" / "tokenizer.model"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "releases.toml: missing key 'release'"),
        ("release = []", "it lists no release"),
        ('[[release]]\nmodel = "m"\n[other]', "other: unknown key"),
        ("[[release]]", "a release needs either model or checkpoint"),
        (
            '[[release]]\nmodel = "m"\ncheckpoint = "c"',
            "a release needs either model or checkpoint",
        ),
        ('[[release]]\nmodel = "m"\ntokenizer = "t"', "tokenizer needs checkpoint"),
        ('[[release]]\nmodel = "m"\nscheme = "fp16"', "scheme: unknown key; known here"),
        ('[[release]]\nmodel = "m"\nschemes = "fp16"', "expected a list"),
        ('[[release]]\nmodel = "m"\nschemes = []', "schemes is empty"),
        ('[[release]]\nmodel = "m"\nprefill_seq_lens = []', "prefill_seq_lens is empty"),
        ('[[release]]\nmodel = "m"\nkv_cache_max_len = "1K"', "expected int"),
        ("[[release", "cannot be read"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with raises(ErrorCode.CONFIG, match=message):
        load_releases(Path(write(tmp_path, text)))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('model = "gemma4"', ErrorCode.UNKNOWN_NAME),
        ('model = "gemma3-270m"\nschemes = ["int2"]', ErrorCode.UNKNOWN_NAME),
        ('model = "gemma3-270m"\nname = "../m"', ErrorCode.REQUEST),
        ('model = "gemma3-270m"\nkv_cache_max_len = 8', ErrorCode.REQUEST),
        ('checkpoint = "nowhere"', ErrorCode.REQUEST),
    ],
)
def test_a_release_that_cannot_be_made_is_named(tmp_path: Path, text: str, code: ErrorCode) -> None:
    path = write(tmp_path, f'[[release]]\nmodel = "gemma3-270m"\n[[release]]\n{text}\n')
    with raises(code) as refused:
        plan_releases([path])
    assert refused.value.__notes__ == [f"Where: release 2 of {path}"]


def test_two_releases_of_one_name_are_refused(tmp_path: Path) -> None:
    for words in (["gemma3-270m"] * 2, [write(tmp_path, TWO), "gemma3-270m"]):
        with raises(ErrorCode.REQUEST, match="more than one has the name gemma3-270m"):
            plan_releases(words)
    for name in ("index.html", "index.json"):
        text = f'[[release]]\nmodel = "gemma3-270m"\nname = "{name}"\n'
        with raises(ErrorCode.REQUEST, match=f"{name} is the name of the index"):
            plan_releases([write(tmp_path, text)])


@pytest.mark.parametrize("version", ["v1", "v1.2.0", "2026-01", "a_b", "1"])
def test_what_a_tag_can_be_is_a_version(version: str) -> None:
    check_tag(version, "version")


@pytest.mark.parametrize(
    "version", ["", ".", "..", "../v1", "v1/2", "-v", "v 1", "v1..2", "v1.", "v1.lock", "v1\n", "ü"]
)
def test_what_no_tag_can_be_is_no_version(version: str) -> None:
    with raises(ErrorCode.REQUEST, match="is no version"):
        check_tag(version, "version")


def test_each_release_has_a_repository_of_its_own(tmp_path: Path) -> None:
    releases = two(tmp_path)
    assert find_repos(releases, None) == ("you/short", "")
    assert find_repos(releases, "me/{name}-litert") == ("me/short-litert", "me/gemma3-270m-litert")
    assert find_repos(releases[1:], "me/one") == ("me/one",)
    with raises(ErrorCode.REQUEST, match="two releases would go to one repository"):
        find_repos(releases, "me/one")


def test_a_place_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    releases = two(tmp_path)
    folder = tmp_path / "v1"
    check_output_paths(folder, releases)
    assert not folder.exists()
    (folder / "short").mkdir(parents=True)
    (folder / "short" / "mine.txt").touch()
    with raises(ErrorCode.OUTPUT, match="it holds other things than a release") as refused:
        check_output_paths(folder, releases)
    assert refused.value.__notes__ == ["Where: short"]
    with raises(ErrorCode.OUTPUT, match="it is a release itself"):
        check_output_paths(write_release(tmp_path / "v2"), releases)
