"""The real 270M checkpoint through the whole pass, against the upstream script and transformers."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from benchmarks.bench import CASES, upstream
from gemma3build.engine.cache import Cache
from gemma3build.engine.executor import FinishedStep
from gemma3build.engine.images import Images
from gemma3build.engine.inputs import LocalCheckpoint
from gemma3build.engine.runner import Runner, cache_dir
from gemma3build.pins.config import find_model, load_images, load_schemes
from gemma3build.plan.build import plan_build
from gemma3build.plan.graph import CheckpointSource
from gemma3build.schema.manifest import Parameters
from gemma3build.util.files import sha256_file
from gemma3build.util.git import PACKAGE_DIR
from gemma3build.workflows.build import Builder
from gemma3build.workflows.request import BuildRequest, prepare_build
from tests.conftest import Command, run_steps

pytestmark = pytest.mark.e2e

NAME = "gemma3-270m"
# Our schemes that are upstream's own recipes, and upstream's names of them.
UPSTREAM = {"upstream_int8": "dynamic_int8", "upstream_int4_block32": "dynamic_int4_block32"}
PROMPT = "Water boils at"
ANSWER = " 100 degrees Celsius"


@pytest.fixture(scope="module")
def command(images: None, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command with the user's cache."""
    return Command(cache_dir(), tmp_path_factory.mktemp("e2e"))


@pytest.fixture(scope="module")
def release(command: Command) -> Path:
    return Path(command.json("build")["release"])


@pytest.fixture(scope="module")
def checkpoint(release: Path, client: docker.DockerClient) -> Path:
    """Where the cache has the imported checkpoint; the release shows that it is there."""
    cache = Cache(cache_dir())
    prepared = prepare_build(BuildRequest(model=NAME))
    outcome = Builder(Runner(client, cache, print)).find(prepared, release)
    assert outcome is not None
    return cache.output(outcome.done["import"].key)


@pytest.fixture(scope="module")
def image(images: None, client: docker.DockerClient) -> str:
    return Images(client, Cache(cache_dir()), load_images(), print).ensure("convert").image_id


def in_container(
    client: docker.DockerClient, image: str, folders: Mapping[Path, str], *arguments: str
) -> Any:
    volumes = {
        str(PACKAGE_DIR): {"bind": "/src/gemma3build", "mode": "ro"},
        str(Path(__file__).parent): {"bind": "/tests", "mode": "ro"},
        **{str(path): {"bind": target, "mode": "ro"} for path, target in folders.items()},
    }
    output = client.containers.run(
        image,
        ["python", "/tests/reference.py", *arguments],
        environment={"PYTHONPATH": "/src"},
        network_mode="none",
        remove=True,
        volumes=volumes,
    )
    return json.loads(output.splitlines()[-1])


def test_the_release_holds_three_schemes_of_the_published_sizes(release: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in release.glob("*.tflite")}
    int8 = sizes[f"{NAME}_q8_ekv1024.tflite"]
    assert 270e6 < int8 < 290e6
    # The embedding is 63 % of this model and stays int8, so int4 saves 17 % at most.
    for suffix in ("q4_block32", "q4_block128"):
        assert 0.80 < sizes[f"{NAME}_{suffix}_ekv1024.tflite"] / int8 < 0.86


def test_a_second_build_does_nothing_and_tells_so(command: Command, release: Path) -> None:
    done = command.run("build")
    assert done.returncode == 0, done.stderr
    assert f"Nothing to do: {release} is up to date" in done.stdout
    assert command.json("build")["seconds"] < 1.5


@pytest.fixture(params=["task", "litertlm"])
def phone(release: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """LiteRT-LM with an int8 file, as an app on a phone has it."""
    import litert_lm

    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    engine = litert_lm.Engine(
        str(release / f"{NAME}_q8_ekv1024.{request.param}"),
        backend=litert_lm.Backend.CPU(),
        cache_dir=str(tmp_path),
    )
    session = engine.create_session(
        apply_prompt_template=False,
        sampler_config=litert_lm.SamplerConfig(top_k=1),
        max_output_tokens=12,
    )
    yield session
    session.close()
    engine.close()


def test_bundle_and_package_answer_as_transformers_does_on_the_source(
    phone: Any, client: docker.DockerClient, image: str, checkpoint: Path
) -> None:
    source = in_container(client, image, {checkpoint: "/checkpoint"}, "text", "/checkpoint", PROMPT)
    phone.run_prefill([PROMPT])
    (answer,) = phone.run_decode().texts
    assert source["text"].startswith(ANSWER)
    assert answer.startswith(ANSWER)
    # int8 rounds: the sentences agree for as long as the source is sure of itself.
    assert answer[: len(ANSWER) + 1] == source["text"][: len(ANSWER) + 1]


@pytest.fixture(scope="module")
def normal(
    client: docker.DockerClient, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cache, Mapping[str, FinishedStep]]:
    """The same checkpoint exported the normal way and quantized by upstream's recipes and ours."""
    local = LocalCheckpoint(checkpoint)
    cache = Cache(tmp_path_factory.mktemp("normal"))
    plan = plan_build(
        model=NAME,
        base_model="",
        shape=find_model(NAME).shape,
        context=32768,
        pinned=True,
        source=CheckpointSource(checkpoint=local.material),
        parameters=Parameters(prefill_seq_lens=(128,), kv_cache_max_len=1024, lean=False),
        schemes=tuple(load_schemes()[name] for name in (*UPSTREAM, "dynamic_int8")),
    )
    modules = ("fetch.check", "convert.calibrate", "convert.export", "convert.quantize")
    steps = tuple(step for step in plan.steps if step.module in modules)
    return cache, run_steps(client, steps, cache.root, local)


@pytest.mark.parametrize("ours", UPSTREAM)
def test_a_normal_export_quantizes_to_the_bytes_of_the_upstream_script(
    normal: tuple[Cache, Mapping[str, FinishedStep]],
    client: docker.DockerClient,
    image: str,
    checkpoint: Path,
    tmp_path: Path,
    ours: str,
) -> None:
    theirs = UPSTREAM[ours]
    shutil.copytree(checkpoint, tmp_path / "checkpoint", copy_function=os.link)
    upstream(client, image, CASES["270m"], theirs, tmp_path / "checkpoint", tmp_path, keep=True)
    (expected,) = (tmp_path / f"upstream-{theirs}").glob("*.tflite")
    cache, done = normal
    (found,) = cache.output(done[f"quantize-{ours}"].key).iterdir()
    assert found.name.replace("_upstream", "") == expected.name
    assert sha256_file(expected) == sha256_file(found)


def test_the_lean_export_has_the_logits_of_the_normal_one_to_the_bit(
    normal: tuple[Cache, Mapping[str, FinishedStep]],
    client: docker.DockerClient,
    image: str,
    release: Path,
) -> None:
    cache, done = normal
    folder = cache.output(done["quantize-dynamic_int8"].key)
    name = f"{NAME}_q8_ekv1024.tflite"
    folders = {folder: "/normal", release: "/lean"}
    found = in_container(client, image, folders, "logits", f"/normal/{name}", f"/lean/{name}")
    assert found == {"equal": True, "finite": True, "shape": [6, 1, 1, 262144]}


def test_images_made_twice_have_equal_ids(client: docker.DockerClient, images: None) -> None:
    made = Images(client, Cache(cache_dir()), load_images(), print)
    first = made.ensure("bundle")
    client.images.remove(first.tag, force=True)
    assert made.find("bundle") is None
    assert made.ensure("bundle") == first
