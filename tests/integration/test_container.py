"""One container at a time: its isolation, its limits, its Hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from msgspec import structs

from gemma3build.engine.cache import Cache
from gemma3build.engine.inputs import LocalCheckpoint, PackagedModel
from gemma3build.engine.runner import cache_dir
from gemma3build.errors import ErrorCode
from gemma3build.pins.config import find_model, load_images, load_schemes
from gemma3build.pins.lockfile import LockedModel, read_models_lock
from gemma3build.plan.build import plan_build
from gemma3build.plan.checkpoint import plan_fetch, plan_import
from gemma3build.plan.graph import CheckpointSource, Plan, Step
from gemma3build.schema.manifest import Parameters
from gemma3build.util.files import FileDigest, sha256_bytes
from tests.conftest import run_plan
from tests.support.errors import raises
from tests.support.hub import MAIN, Hub, User

pytestmark = pytest.mark.integration

PARAMETERS = Parameters(prefill_seq_lens=(8,), kv_cache_max_len=64)


def plan_of(source: CheckpointSource, *steps: Step) -> Plan:
    plan = plan_build(
        model="m",
        base_model="",
        shape=find_model("gemma3-270m").shape,
        context=32768,
        pinned=False,
        source=source,
        parameters=PARAMETERS,
        schemes=(load_schemes()["none"],),
    )
    return structs.replace(plan, steps=steps or plan.steps)


def test_a_step_that_outgrows_its_limit_is_ended_with_a_clear_message(
    client: docker.DockerClient, images: None, tiny: Path, tmp_path: Path
) -> None:
    local = LocalCheckpoint(tiny)
    plan = plan_of(CheckpointSource(checkpoint=local.material))
    with raises(ErrorCode.MEMORY, match=r"its limit of 0\.1 GiB"):
        run_plan(client, plan, tmp_path / "cache", local, memory_limit=150 << 20)
    assert [path.name for path in (tmp_path / "cache" / "staging").iterdir()] == []


CONTENT = {"config.json": b'{"model_type": "gemma3_text"}', "model.safetensors": bytes(300_000)}


TOKEN = "hf_secret"


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub with a gated repository that one token opens."""
    with Hub() as hub:
        hub.users[TOKEN] = User("user", access=frozenset({"org/name"}))
        hub.add("org/name", CONTENT, gated=True)
        yield hub


def hub_plan(hub: Hub, content: Mapping[str, bytes], repo: str = "org/name") -> Plan:
    files = tuple(
        FileDigest(path=name, size=len(data), sha256=sha256_bytes(data))
        for name, data in content.items()
    )
    locked = LockedModel(source=repo, revision=hub.repos[repo].refs[MAIN], files=files)
    return plan_of(CheckpointSource(locked=locked), plan_fetch(locked))


def test_the_hub_is_asked_for_the_pinned_revision_with_the_token(
    client: docker.DockerClient, images: None, tmp_path: Path
) -> None:
    with serving() as hub:
        environment = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.address}
        done = run_plan(client, hub_plan(hub, CONTENT), tmp_path / "cache", environment=environment)
    cache = Cache(tmp_path / "cache")
    for name, data in CONTENT.items():
        assert (cache.output(done["fetch"].key) / name).read_bytes() == data
    names = {file.path for file in done["fetch"].entry.digests}
    assert names == set(CONTENT)
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("change", "token", "code", "message"),
    [
        (
            {"config.json": b"changed!"},
            {"HF_TOKEN": TOKEN},
            ErrorCode.DIGEST,
            "config.json of org/name is not the pinned one",
        ),
        ({}, {}, ErrorCode.LOGIN, "is gated and no token was sent"),
        (
            {"gone.json": b""},
            {"HF_TOKEN": TOKEN},
            ErrorCode.NOT_FOUND,
            "there is no such file at that revision",
        ),
    ],
)
def test_what_the_hub_refuses_or_changes_is_told(
    client: docker.DockerClient,
    images: None,
    tmp_path: Path,
    change: Mapping[str, bytes],
    token: Mapping[str, str],
    code: ErrorCode,
    message: str,
) -> None:
    with serving() as hub, raises(code) as caught:
        run_plan(
            client,
            hub_plan(hub, {**CONTENT, **change}),
            tmp_path / "cache",
            environment={"HF_ENDPOINT": hub.address, **token},
        )
    assert message in str(caught.value)
    assert not (tmp_path / "cache" / "steps").exists()


def test_the_hub_is_reached_through_a_proxy_on_the_loopback(
    client: docker.DockerClient, images: None, tmp_path: Path
) -> None:
    with serving() as hub:
        # Nothing but the proxy knows this name; it leads large files elsewhere, which is asked for, too.
        hub.storage = "http://storage.invalid"
        environment = {
            "HF_TOKEN": TOKEN,
            "HF_ENDPOINT": "http://hub.invalid",
            "http_proxy": hub.address,
        }
        done = run_plan(client, hub_plan(hub, CONTENT), tmp_path / "cache", environment=environment)
    assert {file.path for file in done["fetch"].entry.digests} == set(CONTENT)
    assert any("GET /lfs" in request for request in hub.requests)


def test_a_line_that_is_cut_in_mid_download_goes_on_where_it_was(
    client: docker.DockerClient, images: None, tmp_path: Path
) -> None:
    with serving() as hub:
        hub.fail("GET /lfs", after=100_000, times=2)
        environment = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.address}
        run_plan(client, hub_plan(hub, CONTENT), tmp_path / "cache", environment=environment)
    assert sum("GET /lfs" in request for request in hub.requests) == 3


def test_a_model_with_another_digest_than_the_locked_one_is_refused(
    client: docker.DockerClient, images: None, tmp_path: Path
) -> None:
    locked = read_models_lock().models["gemma3-270m"]
    wrong = structs.replace(locked, revision="0" * 64)
    plan = plan_of(
        CheckpointSource(locked=wrong), plan_import(wrong, find_model("gemma3-270m").shape)
    )
    # The wheels are those of the lock, from the user's own cache.
    packaged = PackagedModel(Cache(cache_dir()), locked, load_images(), print)
    with raises(ErrorCode.DIGEST, match="The GGUF file is not the pinned one"):
        run_plan(client, plan, tmp_path / "cache", packaged)
    assert not (tmp_path / "cache" / "steps").exists()
