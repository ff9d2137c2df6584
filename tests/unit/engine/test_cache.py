import os
from pathlib import Path

import pytest

from gemma3build.engine.cache import Cache, CacheEntry
from gemma3build.engine.runner import Runner, open_runner
from gemma3build.errors import ErrorCode
from gemma3build.schema.step import StepResult
from gemma3build.util.files import partial_path
from tests.support.errors import raises

KEY = "k" * 64
RESULT = StepResult(facts={"a": 1}, seconds=1.5, peak_memory=10)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def commit(cache: Cache, key: str = KEY, content: bytes = b"content") -> CacheEntry:
    with cache.lock(key):
        staged = cache.stage(key)
        (staged / "output" / "file").write_bytes(content)
        (staged / "log.txt").write_text("said")
        (staged / "result.json").write_text("{}")
        return cache.commit(key, "step", RESULT)


def test_what_is_committed_is_found_with_its_log_and_nothing_else(cache: Cache) -> None:
    entry = commit(cache)
    assert cache.find(KEY) == entry
    assert entry.facts == {"a": 1}
    assert cache.log(KEY).read_text() == "said"
    assert sorted(path.name for path in cache.log(KEY).parent.iterdir()) == [
        "entry.json",
        "log.txt",
        "output",
    ]
    assert (cache.output(KEY) / "file").stat().st_mode & 0o777 == 0o444


def test_what_is_only_staged_is_not_found_and_is_staged_again(cache: Cache) -> None:
    left = cache.stage(KEY) / "output" / "half"
    left.write_bytes(b"x")
    assert cache.find(KEY) is None
    assert not (cache.stage(KEY) / "output" / "half").exists()


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "entry"])
def test_a_damaged_entry_is_noticed_and_removed(cache: Cache, damage: str) -> None:
    commit(cache)
    path = cache.output(KEY) / "file"
    if damage == "truncated":
        replace(path, b"conten")
    elif damage == "flipped":
        replace(path, b"Content")
        os.utime(path, ns=(0, 1))
    elif damage == "removed":
        path.unlink()
    else:
        replace(cache.output(KEY).parent / "entry.json", b"{")
    assert cache.find(KEY) is None
    assert not cache.output(KEY).exists()


def test_a_touched_file_with_the_same_bytes_is_fine(cache: Cache) -> None:
    entry = commit(cache)
    os.utime(cache.output(KEY) / "file", ns=(0, 1))
    assert cache.find(KEY) == entry


def test_damage_that_keeps_size_and_time_is_noticed_before_use(
    cache: Cache, tmp_path: Path
) -> None:
    entry = commit(cache)
    path = cache.output(KEY) / "file"
    replace(path, b"Content")
    os.utime(path, ns=(0, entry.files[0].changed))
    fresh = Cache(tmp_path / "cache")
    assert fresh.find(KEY) == entry
    assert not fresh.verify(KEY, entry)
    assert fresh.find(KEY) is None


def test_a_file_that_went_away_is_damage(cache: Cache, tmp_path: Path) -> None:
    entry = commit(cache)
    (cache.output(KEY) / "file").unlink()
    assert not Cache(tmp_path / "cache").verify(KEY, entry)


def test_a_file_that_goes_or_changes_after_it_was_verified_is_damage(cache: Cache) -> None:
    entry = commit(cache)
    assert cache.verify(KEY, entry)
    replace(cache.output(KEY) / "file", b"Content")
    assert not cache.verify(KEY, entry)
    assert not cache.output(KEY).exists()
    assert not cache.verify(KEY, entry)


def test_a_step_that_leaves_a_link_is_refused(cache: Cache) -> None:
    staged = cache.stage(KEY)
    (staged / "output" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link is neither"):
        cache.commit(KEY, "step", RESULT)
    assert cache.find(KEY) is None


def test_prune_removes_leftovers_and_on_request_everything(cache: Cache) -> None:
    commit(cache)
    (cache.stage("l" * 64) / "output" / "half").write_bytes(b"x" * 1000)
    assert cache.prune(everything=False) >= 1000
    assert cache.find(KEY) is not None
    assert cache.prune(everything=True) > 0
    assert cache.find(KEY) is None
    assert cache.entries() == {}


@pytest.mark.parametrize("name", ["datasets", "wheels", "images"])
def test_prune_removes_downloads_on_request_alone(cache: Cache, name: str) -> None:
    kept = cache.root / name / "digest" / "file"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 1000)
    partial = partial_path(kept.parent / "other")
    partial.write_bytes(b"x" * 10)
    assert cache.prune(everything=False) == 0  # it may be written now
    os.utime(partial, (0, 0))  # a killed download left it
    assert cache.prune(everything=False) == 10
    assert [*kept.parent.iterdir()] == [kept]
    assert cache.prune(everything=True) >= 1000
    assert not kept.exists()


def test_prune_leaves_what_a_running_build_holds(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "cache")
    with cache.lock(KEY):
        half = cache.stage(KEY) / "output" / "half"
        half.write_bytes(b"x")
        other.prune(everything=True)
        assert half.exists()


def test_nothing_finished_is_pruned_while_a_build_runs(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(cache)
    wheel = cache.root / "wheels" / "digest" / "a.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    monkeypatch.setenv("GEMMA3BUILD_CACHE", str(cache.root))
    monkeypatch.setattr("gemma3build.engine.docker.connect", lambda: None)
    other = Cache(tmp_path / "cache")
    with open_runner(print) as one, open_runner(print) as two:
        assert isinstance(one, Runner)
        assert isinstance(two, Runner)
        with raises(ErrorCode.IN_USE, match="a build is running"):
            other.prune(everything=True)
        assert other.prune(everything=False) == 0
        assert wheel.exists()
    assert other.find(KEY) is not None
    other.prune(everything=True)
    assert not wheel.exists()
    assert other.find(KEY) is None


def test_a_cache_that_cannot_be_locked_is_used_as_it_is() -> None:
    with Cache(Path("/proc/none")).in_use():
        assert not Path("/proc/none").exists()


def test_the_log_of_a_failed_step_is_kept_until_pruned(cache: Cache) -> None:
    with cache.lock(KEY):
        (cache.stage(KEY) / "log.txt").write_text("why")
        kept = cache.keep_log(KEY, "export")
        cache.unstage(KEY)
    assert kept is not None
    assert kept.read_text() == "why"
    cache.prune(everything=False)
    assert not kept.exists()
    cache.stage(KEY)
    assert cache.keep_log(KEY, "export") is None


def test_something_is_said_once(cache: Cache) -> None:
    assert [cache.once("terms"), cache.once("terms")] == [True, False]
