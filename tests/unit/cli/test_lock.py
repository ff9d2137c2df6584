"""``lock``: what it writes and what it leaves, where some models cannot be had."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemma3build.errors import BuildError, ErrorCode, from_step
from gemma3build.pins import lockfile as locks
from gemma3build.pins.lockfile import ImagesLock, LockedModel, write_lock, write_models_lock
from gemma3build.schema.step import StepErrorCode, StepFailure
from gemma3build.util.files import FileDigest
from tests.support.command import run_command

Lock = Callable[..., Any]
FILE = FileDigest(path="config.json", size=1, sha256="0" * 64)
OLD, NEW = (LockedModel(source="o/n", revision=str(n) * 40, files=(FILE,)) for n in (1, 2))
OLD_IMAGES = ImagesLock(images={"base": {"Dockerfile": "0" * 64}})


def refused(name: str, refusal: StepErrorCode) -> BuildError:
    failure = StepFailure(code=refusal.value, what=f"No {name}", why=refusal.value, hint="Fix it.")
    return from_step(failure)


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """The command with three models and their own lockfiles; some models raise errors."""
    monkeypatch.setattr(locks, "model_dirs", lambda: (tmp_path,))
    monkeypatch.setattr(locks, "IMAGES_LOCK", tmp_path / "images.lock.json")
    read_images = locks.read_images_lock
    monkeypatch.setattr(locks, "read_images_lock", lambda: read_images(locks.IMAGES_LOCK))
    models = dict.fromkeys("abc", SimpleNamespace())
    write_models_lock(dict.fromkeys(models, OLD))
    write_lock(OLD_IMAGES, locks.IMAGES_LOCK)
    monkeypatch.setattr("gemma3build.cli.lock.load_models", lambda: models)
    monkeypatch.setattr("gemma3build.cli.lock.find_model", lambda name: models[name])

    def run(*names: str, **errors: BuildError) -> Any:
        def resolve(name: str, *_: object) -> LockedModel:
            if name in errors:
                raise errors[name]
            return NEW

        monkeypatch.setattr("gemma3build.pins.resolver.resolve_model", resolve)
        return run_command("lock", *names)

    return run


def locked() -> dict[str, LockedModel]:
    return dict(locks.read_models_lock().models)


def test_all_models_and_the_images_are_locked(lock: Lock) -> None:
    done = lock()
    assert done.returncode == 0, done.stderr
    assert locked() == dict.fromkeys("abc", NEW)
    assert locks.read_images_lock() == locks.current_images()


def test_a_named_model_is_locked_and_no_image(lock: Lock) -> None:
    done = lock("b")
    assert done.returncode == 0, done.stderr
    assert locked() == {"a": OLD, "b": NEW, "c": OLD}
    assert locks.read_images_lock() == OLD_IMAGES
    assert "images" not in done.stdout


@pytest.mark.parametrize("refusal", [StepErrorCode.LOGIN, StepErrorCode.ACCESS])
def test_a_model_that_needs_another_login_is_told_and_excused_unless_it_was_named(
    lock: Lock, refusal: StepErrorCode
) -> None:
    error = refused("a", refusal)
    done = lock(a=error)
    assert done.returncode == 0
    assert f"No a: {refusal.value}. Fix it." in done.stderr
    assert locked() == {"a": OLD, "b": NEW, "c": NEW}
    assert lock("a", a=error).returncode == error.code.exit_code


def test_any_other_failure_is_the_exit_code_and_the_rest_is_locked(lock: Lock) -> None:
    errors = {
        "a": refused("a", StepErrorCode.LOGIN),
        "b": refused("b", StepErrorCode.NETWORK),
        "c": BuildError(ErrorCode.DOWNLOAD, "No c", "it is gone", "Fix it."),
    }
    done = lock(**errors)
    assert done.returncode == ErrorCode.NETWORK.exit_code
    assert [done.stderr.count(f"No {name}") for name in "abc"] == [1, 1, 1]
    assert locks.read_images_lock() == locks.current_images()


def test_of_several_names_each_failure_is_told_and_the_first_is_the_exit_code(lock: Lock) -> None:
    errors = {"a": refused("a", StepErrorCode.LOGIN), "c": refused("c", StepErrorCode.NETWORK)}
    done = lock("a", "b", "c", **errors)
    assert done.returncode == ErrorCode.LOGIN.exit_code
    assert [done.stderr.count(f"No {name}") for name in "abc"] == [1, 0, 1]
    assert locked() == {"a": OLD, "b": NEW, "c": OLD}


def test_an_installed_package_has_no_image_to_lock(
    lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma3build.cli.lock.INSTALLED", True)
    done = lock()
    assert done.returncode == 0, done.stderr
    assert locked() == dict.fromkeys("abc", NEW)
    assert locks.read_images_lock() == OLD_IMAGES
