"""Artifacts broken in the ways that conversions have been broken in: each is refused."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from gemma3build.engine.cache import Cache
from gemma3build.engine.images import Images
from gemma3build.engine.inputs import ChainedInputs, LocalFiles
from gemma3build.engine.runner import cache_dir
from gemma3build.errors import ErrorCode
from gemma3build.pins.config import load_images, load_schemes
from gemma3build.plan.graph import Step
from gemma3build.schema.evaluation import EVALUATION, GATE_FILE, REPORT, Evaluation, Gate
from gemma3build.schema.manifest import REFUSED
from gemma3build.util.serialize import decode_json, encode
from tests.conftest import SHAPES, Command, run_steps

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
SCHEME = load_schemes()["dynamic_int8"]
FAITHFUL = "faithful"
WAYS = ("zero-scales", "swapped-tensors", "swapped-rotary-bases", "no-window", "narrow-window")
FIGURES = {"top-1 agreement", "KL divergence", "NLL increase"}


def outputs(folder: Path) -> dict[str, Path]:
    """The directories with the files of each step, by its name."""
    cache = Cache(folder)
    return {entry.step: cache.output(key) for key, entry in cache.entries().items()}


@pytest.fixture(scope="module")
def broken(
    images: None,
    client: docker.DockerClient,
    warm_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Path]:
    """The int8 model of the tiny checkpoint, whole and broken in each way."""
    folder = tmp_path_factory.mktemp("broken")
    source = outputs(warm_cache)[f"quantize-{SCHEME.name}"]
    image = Images(client, Cache(cache_dir()), load_images(), print).ensure("evaluate")
    commands = [
        f"python /tests/break_model.py {way} /source/*.tflite /target/{way}.tflite" for way in WAYS
    ]
    client.containers.run(
        image.image_id,
        ["sh", "-c", " && ".join([f"cp /source/*.tflite /target/{FAITHFUL}.tflite", *commands])],
        network_mode="none",
        remove=True,
        user=f"{os.getuid()}:{os.getgid()}",
        volumes={
            str(HERE): {"bind": "/tests", "mode": "ro"},
            str(source): {"bind": "/source", "mode": "ro"},
            str(folder): {"bind": "/target", "mode": "rw"},
        },
    )
    return {way: folder / f"{way}.tflite" for way in (FAITHFUL, *WAYS)}


@pytest.fixture(scope="module")
def gates(
    client: docker.DockerClient,
    broken: Mapping[str, Path],
    warm_cache: Path,
    tiny: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Gate]:
    """What the gate says about each."""
    found = outputs(warm_cache)
    shared = [
        LocalFiles("tokenizer", {"tokenizer.model": tiny / "tokenizer.model"}),
        folder_files("reference", found["reference"]),
        folder_files("bundle", found[f"bundle-{SCHEME.name}"]),
        folder_files("package", found[f"package-{SCHEME.name}"]),
    ]
    models = {way: LocalFiles(way, {path.name: path}) for way, path in broken.items()}
    steps = tuple(
        Step(
            name=f"gate-{way}",
            module="evaluate.gate",
            parameters={
                "groups": encode(SCHEME.groups),
                "limits": encode(SCHEME.limits),
                "longest": 64,
            },
            inputs={
                "model": model.material,
                **{files.material.name: files.material for files in shared},
            },
            memory=0,
            disk=0,
        )
        for way, model in models.items()
    )
    places = {files.material.name: files for files in (*shared, *models.values())}
    folder = tmp_path_factory.mktemp("gates")
    done = run_steps(client, steps, folder, ChainedInputs(places, fallback=shared[0]))
    cache = Cache(folder)
    return {
        way: decode_json(Gate, (cache.output(done[f"gate-{way}"].key) / GATE_FILE).read_bytes(), "")
        for way in models
    }


def folder_files(name: str, folder: Path) -> LocalFiles:
    return LocalFiles(name, {path.name: path for path in folder.iterdir()})


def failed(gate: Gate) -> set[str]:
    return {check.name for check in gate.checks if not check.passed}


def test_a_faithful_model_passes_every_check(gates: Mapping[str, Gate]) -> None:
    gate = gates[FAITHFUL]
    assert gate.passed
    assert {check.name for check in gate.checks} == {
        "weights",
        *FIGURES,
        "bundle in LiteRT-LM",
        "stop tokens",
        "stops in LiteRT-LM",
        "turns opened in an answer",
        "package in LiteRT-LM",
    }
    assert len(gate.prompts) == 14
    assert all(sample.bundle == sample.artifact for sample in gate.samples)


def test_scales_of_zero_are_found_in_the_file_and_refused_by_the_runtime(
    gates: Mapping[str, Gate],
) -> None:
    gate = gates["zero-scales"]
    assert failed(gate) == {"weights", "interpreter"}
    assert "zero" in gate.checks[0].measured


@pytest.mark.parametrize("way", WAYS[1:])
def test_the_figures_refuse_what_only_shows_in_the_numbers(
    gates: Mapping[str, Gate], way: str
) -> None:
    # That the whole bundle says something else is another check, and not the one looked at here.
    assert failed(gates[way]) & FIGURES, gates[way].agreement


def test_a_refused_release_is_kept_aside_with_its_figures(
    cold: Command, warm_cache: Path, tiny: Path
) -> None:
    scheme = cold.folder / "strict.toml"
    scheme.write_text(
        'name = "strict"\nsuffix = "strict"\nsummary = "nothing int4 can keep to"\n'
        "[embedding]\nbits = 8\n[attention]\nbits = 4\n[feed_forward]\nbits = 4\n"
        "[limits]\nkl = 1e-9\n"
    )
    command = Command(warm_cache, cold.folder)
    arguments = ("build", "--checkpoint", str(tiny), "--scheme", str(scheme), *SHAPES)
    done = command.run(*arguments)
    assert done.returncode == ErrorCode.GATE.exit_code
    assert re.search(r"strict +KL divergence +[\d.e-]+ +≤ 1e-09 +failed", done.stderr)
    assert not (cold.folder / "artifacts" / "tiny").exists()
    folder = cold.folder / "artifacts" / f"tiny{REFUSED}"
    assert str(folder) in done.stderr.replace("\n", "")
    evaluation = decode_json(Evaluation, (folder / EVALUATION).read_bytes(), EVALUATION)
    assert failed(evaluation.schemes[0].gate) == {"KL divergence"}
    assert (folder / REPORT).stat().st_size > 10_000
    # It stays refused, without running anything.
    again = command.run(*arguments)
    assert again.returncode == ErrorCode.GATE.exit_code
    assert "…" not in again.stderr


def test_the_evaluation_goes_with_the_manifest_and_is_in_no_checksum(
    warm: Command, tiny: Path
) -> None:
    release = Path(
        warm.json("build", "--checkpoint", str(tiny), "--scheme", "all", *SHAPES)["release"]
    )
    found: Any = json.loads((release / EVALUATION).read_bytes())
    assert found["schemes"][0]["scheme"] == "none"
    assert all(check["passed"] for item in found["schemes"] for check in item["gate"]["checks"])
    sums = (release / "SHA256SUMS").read_text()
    assert EVALUATION not in sums
    assert REPORT not in sums
    assert EVALUATION not in (release / "manifest.json").read_text()
