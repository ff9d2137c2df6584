import os
from pathlib import Path

import pytest

from gemma3build.engine.cache import Entry, Store
from gemma3build.engine.runner import Runner, open_runner
from gemma3build.errors import InUseError
from gemma3build.schema.step import StepResult

KEY = "k" * 64
RESULT = StepResult(facts={"a": 1}, seconds=1.5, peak_memory=10)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def commit(store: Store, key: str = KEY, content: bytes = b"content") -> Entry:
    with store.lock(key):
        staged = store.stage(key)
        (staged / "output" / "file").write_bytes(content)
        (staged / "log.txt").write_text("said")
        (staged / "result.json").write_text("{}")
        return store.commit(key, "step", RESULT)


def test_what_is_committed_is_found_with_its_log_and_nothing_else(store: Store) -> None:
    entry = commit(store)
    assert store.find(KEY) == entry
    assert entry.facts == {"a": 1}
    assert store.log(KEY).read_text() == "said"
    assert sorted(path.name for path in store.log(KEY).parent.iterdir()) == [
        "entry.json",
        "log.txt",
        "output",
    ]
    assert (store.output(KEY) / "file").stat().st_mode & 0o777 == 0o444


def test_what_is_only_staged_is_not_found_and_is_staged_anew(store: Store) -> None:
    left = store.stage(KEY) / "output" / "half"
    left.write_bytes(b"x")
    assert store.find(KEY) is None
    assert not (store.stage(KEY) / "output" / "half").exists()


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "entry"])
def test_a_damaged_entry_is_noticed_and_removed(store: Store, damage: str) -> None:
    commit(store)
    path = store.output(KEY) / "file"
    if damage == "truncated":
        replace(path, b"conten")
    elif damage == "flipped":
        replace(path, b"Content")
        os.utime(path, ns=(0, 1))
    elif damage == "removed":
        path.unlink()
    else:
        replace(store.output(KEY).parent / "entry.json", b"{")
    assert store.find(KEY) is None
    assert not store.output(KEY).exists()


def test_a_touched_file_with_the_same_bytes_is_fine(store: Store) -> None:
    entry = commit(store)
    os.utime(store.output(KEY) / "file", ns=(0, 1))
    assert store.find(KEY) == entry


def test_damage_that_keeps_size_and_time_is_noticed_before_use(
    store: Store, tmp_path: Path
) -> None:
    entry = commit(store)
    path = store.output(KEY) / "file"
    replace(path, b"Content")
    os.utime(path, ns=(0, entry.files[0].changed))
    fresh = Store(tmp_path / "cache")
    assert fresh.find(KEY) == entry
    assert not fresh.verify(KEY, entry)
    assert fresh.find(KEY) is None


def test_a_file_that_went_away_is_damage(store: Store, tmp_path: Path) -> None:
    entry = commit(store)
    (store.output(KEY) / "file").unlink()
    assert not Store(tmp_path / "cache").verify(KEY, entry)


def test_a_file_that_goes_or_changes_after_it_was_verified_is_damage(store: Store) -> None:
    entry = commit(store)
    assert store.verify(KEY, entry)
    replace(store.output(KEY) / "file", b"Content")
    assert not store.verify(KEY, entry)
    assert not store.output(KEY).exists()
    assert not store.verify(KEY, entry)


def test_a_step_that_leaves_a_link_is_refused(store: Store) -> None:
    staged = store.stage(KEY)
    (staged / "output" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link is neither"):
        store.commit(KEY, "step", RESULT)
    assert store.find(KEY) is None


def test_prune_removes_leftovers_and_on_request_everything(store: Store) -> None:
    commit(store)
    (store.stage("l" * 64) / "output" / "half").write_bytes(b"x" * 1000)
    assert store.prune(everything=False) >= 1000
    assert store.find(KEY) is not None
    assert store.prune(everything=True) > 0
    assert store.find(KEY) is None
    assert store.entries() == {}


@pytest.mark.parametrize("name", ["datasets", "wheels", "images"])
def test_prune_removes_downloads_on_request_alone(store: Store, name: str) -> None:
    kept = store.root / name / "digest" / "file"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 1000)
    (kept.parent / ".other.partial").write_bytes(b"x" * 10)  # of a killed download
    assert store.prune(everything=False) == 10
    assert [*kept.parent.iterdir()] == [kept]
    assert store.prune(everything=True) >= 1000
    assert not kept.exists()


def test_prune_leaves_what_a_running_build_holds(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "cache")
    with store.lock(KEY):
        half = store.stage(KEY) / "output" / "half"
        half.write_bytes(b"x")
        other.prune(everything=True)
        assert half.exists()


def test_nothing_finished_is_pruned_while_a_build_runs(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store)
    wheel = store.root / "wheels" / "digest" / "a.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    monkeypatch.setenv("GEMMA3BUILD_CACHE", str(store.root))
    monkeypatch.setattr("gemma3build.engine.docker.connect", lambda: None)
    other = Store(tmp_path / "cache")
    with open_runner(print) as one, open_runner(print) as two:
        assert isinstance(one, Runner)
        assert isinstance(two, Runner)
        with pytest.raises(InUseError, match="a build is running") as caught:
            other.prune(everything=True)
        assert caught.value.exit_code == 24
        assert other.prune(everything=False) == 0
        assert wheel.exists()
    assert other.find(KEY) is not None
    other.prune(everything=True)
    assert not wheel.exists()
    assert other.find(KEY) is None


def test_a_cache_that_cannot_be_locked_is_used_as_it_is() -> None:
    with Store(Path("/proc/none")).in_use():
        assert not Path("/proc/none").exists()


def test_the_log_of_a_failed_step_is_kept_until_pruned(store: Store) -> None:
    with store.lock(KEY):
        (store.stage(KEY) / "log.txt").write_text("why")
        kept = store.keep_log(KEY, "export")
        store.unstage(KEY)
    assert kept is not None
    assert kept.read_text() == "why"
    store.prune(everything=False)
    assert not kept.exists()
    store.stage(KEY)
    assert store.keep_log(KEY, "export") is None


def test_something_is_said_once(store: Store) -> None:
    assert [store.once("terms"), store.once("terms")] == [True, False]
