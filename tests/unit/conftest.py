"""A release to break; a Hub on loopback for the client in this process, and no wait between attempts."""

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.support.hub import Hub, User
from tests.support.publishing import TOKEN
from tests.support.release import write_release


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of the client and of gemma3build, in seconds; none of them happens."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.fixture
def writer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub.users[TOKEN] = User("publisher", write=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    # Progress bars are off for the whole process once a command turned them off.
    huggingface_hub.utils.enable_progress_bars()
