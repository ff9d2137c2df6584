"""A model of the Hub, fetched once by the real container, and built when the Hub is gone."""

from pathlib import Path

import docker
import huggingface_hub.constants
import pytest

from benchmarks.bench import Quiet
from gemma3build.engine.cache import Cache
from gemma3build.engine.runner import Runner, cache_dir
from gemma3build.errors import ErrorCode
from gemma3build.release.checksums import CHECKSUMS
from gemma3build.workflows.build import Builder, BuildResult
from gemma3build.workflows.request import BuildRequest, prepare_build
from tests.support.errors import raises
from tests.support.hub import Hub
from tests.support.pinned import TINY, TOKEN, pin_tiny

pytestmark = pytest.mark.integration


def builder(client: docker.DockerClient, cache: Path) -> Builder:
    """A builder with its own cache; wheels are those of the user's cache."""
    return Builder(Runner(client, Cache(cache), print, downloads=Cache(cache_dir())))


def build(client: docker.DockerClient, cache: Path, folder: Path, *schemes: str) -> BuildResult:
    prepared = prepare_build(BuildRequest(model=TINY, schemes=schemes))
    return builder(client, cache).build(prepared, folder, 1, Quiet())


def test_a_model_that_was_fetched_once_is_built_when_the_hub_is_gone(
    client: docker.DockerClient, images: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with Hub() as hub:
        pin_tiny(hub, tmp_path / "tiny", monkeypatch)
        first = build(client, cache, tmp_path / "one")
        assert not first.done["fetch"].cached
        asked = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN")

    idle = builder(client, cache).find(prepare_build(BuildRequest(model=TINY)), tmp_path / "one")
    assert idle is not None
    assert idle.idle
    second = build(client, cache, tmp_path / "two")
    assert all(done.cached for done in second.done.values())
    sums = [(tmp_path / name / CHECKSUMS).read_text() for name in ("one", "two")]
    assert sums[0] == sums[1]
    other = build(client, cache, tmp_path / "three", "fp16")
    assert other.done["fetch"].cached
    assert not other.done["quantize-fp16"].cached
    assert len(hub.requests) == asked

    with raises(ErrorCode.OFFLINE, match="fetch cannot run"):
        build(client, tmp_path / "empty", tmp_path / "four")
    assert not (tmp_path / "four").exists()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
