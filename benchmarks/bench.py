"""Compare a build with the converter's own script, in one run, in one image.

    nox -s bench                     270M, prefill 128, kv cache 1024: three schemes and all six
    nox -s bench -- --model 1b       1B with random weights, prefill 2048, kv cache 4096

The build starts from the checkpoint, as the script does, with an empty cache; it also checks, bundles
and records. The comparison with the checkpoint, which the
script does not do, is not counted. Exits with 1 if a limit is exceeded.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from gemma3build.engine.cache import Cache
from gemma3build.engine.container import WORK
from gemma3build.engine.docker import connect
from gemma3build.engine.images import Images
from gemma3build.engine.runner import CACHE_VARIABLE, Runner, cache_dir
from gemma3build.pins.config import find_model, load_images
from gemma3build.util.git import PACKAGE_DIR
from gemma3build.util.serialize import encode
from gemma3build.util.text import GIBIBYTE
from gemma3build.workflows.build import Builder
from gemma3build.workflows.request import BuildRequest, prepare_build

BENCH_DIR = Path(__file__).parent
PAGE = ("dynamic_int8", "dynamic_int4_block32", "dynamic_int4_block128")
ALL = ("none", *PAGE, "weight_only_int8", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured, and what it must reach as a share of the script's figures."""

    model: str
    size: str
    prefill: int
    kv_cache: int
    schemes: tuple[str, ...]
    wall_three: float
    wall_all: float | None
    memory_share: float | None
    memory_bytes: int | None


CASES = {
    "270m": Case(
        model="gemma3-270m",
        size="270m",
        prefill=128,
        kv_cache=1024,
        schemes=ALL,
        wall_three=0.45,
        wall_all=0.30,
        memory_share=0.65,
        memory_bytes=None,
    ),
    "1b": Case(
        model="gemma3-1b-it",
        size="1b",
        prefill=2048,
        kv_cache=4096,
        schemes=PAGE,
        wall_three=0.30,
        wall_all=None,
        memory_share=None,
        memory_bytes=8 * GIBIBYTE,
    ),
}


def run_container(
    client: docker.DockerClient,
    image: str,
    command: list[str],
    work: Path,
    inputs: Mapping[Path, str],
) -> None:
    """Run a command that writes to WORK, with the package and this folder, without a network."""
    volumes = {
        str(PACKAGE_DIR): {"bind": "/src/gemma3build", "mode": "ro"},
        str(BENCH_DIR): {"bind": "/bench", "mode": "ro"},
        str(work): {"bind": WORK, "mode": "rw"},
        **{str(path): {"bind": target, "mode": "ro"} for path, target in inputs.items()},
    }
    client.containers.run(
        image,
        command,
        environment={"PYTHONPATH": "/src", "TMPDIR": WORK},
        network_mode="none",
        remove=True,
        user=f"{os.getuid()}:{os.getgid()}",
        volumes=volumes,
    )


def upstream(
    client: docker.DockerClient,
    image: str,
    case: Case,
    scheme: str,
    checkpoint: Path,
    work: Path,
    *,
    keep: bool = False,
) -> dict[str, Any]:
    """Run the script once; return its seconds and peak memory, and keep its output if asked to."""
    output = work / f"upstream-{scheme}"
    output.mkdir()
    command = [
        "python",
        "/bench/upstream.py",
        f"{WORK}/result.json",
        f"--quantize={scheme}",
        "--checkpoint_path=/checkpoint",
        f"--output_path={WORK}",
        f"--output_name_prefix={case.model}",
        f"--prefill_seq_lens={case.prefill}",
        f"--kv_cache_max_len={case.kv_cache}",
        f"--model_size={case.size}",
    ]
    run_container(client, image, command, output, {checkpoint: "/checkpoint"})
    result: dict[str, Any] = json.loads((output / "result.json").read_text())
    for path in output.glob("*.tflite"):
        result["size"] = path.stat().st_size
        if not keep:
            path.unlink()
    return result


def ours(
    case: Case, schemes: tuple[str, ...], checkpoint: Path, tokenizer: Path, work: Path
) -> Any:
    """Build with an empty cache; return what the command prints as JSON."""
    with tempfile.TemporaryDirectory(dir=work) as cache:
        command = [
            *(sys.executable, "-m", "gemma3build", "build", "--json", "--name", case.model),
            *("--checkpoint", str(checkpoint), "--tokenizer", str(tokenizer)),
            *("--prefill-seq-lens", str(case.prefill), "--kv-cache-max-len", str(case.kv_cache)),
            *("--output", f"{cache}/release"),
            *(argument for scheme in schemes for argument in ("--scheme", scheme)),
        ]
        done = subprocess.run(
            command,
            env={**os.environ, CACHE_VARIABLE: cache},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)


def converting(build: Mapping[str, Any]) -> float:
    """Return the seconds of a build without those of the gate."""
    gate = (step for step in build["steps"] if step["name"].startswith(("gate-", "reference")))
    return float(build["seconds"] - sum(step["seconds"] for step in gate))


class Quiet:
    """A reporter that prints nothing, for importing the checkpoint."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def default_checkpoint(client: docker.DockerClient) -> Path:
    """Return the default model's checkpoint, importing it into the user's cache if needed."""
    cache = Cache(cache_dir())
    prepared = prepare_build(BuildRequest(model="gemma3-270m", schemes=("none",)))
    with tempfile.TemporaryDirectory() as folder:
        outcome = Builder(Runner(client, cache, print)).build(
            prepared, Path(folder, "r"), 1, Quiet()
        )
    return cache.output(outcome.done["import"].key)


def checkpoint_of(client: docker.DockerClient, images: Images, case: Case, work: Path) -> Path:
    """Return a directory with the checkpoint of a case."""
    if case.size == "270m":
        return default_checkpoint(client)
    folder = work / "checkpoint"
    folder.mkdir()
    (work / "shape.json").write_text(json.dumps(encode(find_model(case.model).shape)))
    script = "/bench/random_checkpoint.py"
    command = ["python", script, f"{WORK}/shape.json", f"{WORK}/checkpoint"]
    run_container(client, images.ensure("fetch").image_id, command, work, {})
    return folder


def measure(case: Case, work: Path) -> dict[str, Any]:
    """Run everything of a case; return the figures."""
    client = connect()
    images = Images(client, Cache(cache_dir()), load_images(), print)
    tokenizer = default_checkpoint(client) / "tokenizer.model"
    checkpoint = checkpoint_of(client, images, case, work)
    convert = images.ensure("convert").image_id
    for name in ("bundle", "litertlm", "evaluate"):
        images.ensure(name)
    built = {"three": ours(case, PAGE, checkpoint, tokenizer, work)}
    if case.wall_all is not None:
        built["all"] = ours(case, ALL, checkpoint, tokenizer, work)
    script = {}
    for scheme in case.schemes:
        script[scheme] = upstream(client, convert, case, scheme, checkpoint, work)
        print(f"upstream {scheme}: {script[scheme]}", flush=True)
    return {"built": built, "script": script}


def summary(case: Case, figures: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return (what, found, limit) for each limit of a case."""
    script = figures["script"]
    three = sum(script[scheme]["seconds"] for scheme in PAGE)
    peak = max(script[scheme]["peak_memory"] for scheme in PAGE)
    build = figures["built"]["three"]
    own_peak = max(step["peak_memory"] for step in build["steps"])
    bare = sum(step["seconds"] for step in build["steps"])
    wall = converting(build)
    rows = [
        (f"three schemes, wall: {wall:.0f} s of {three:.0f} s", wall / three, case.wall_three),
        (f"cost around the bare steps: {bare:.0f} s", build["seconds"] / bare - 1, 0.10),
    ]
    shown = f"peak memory: {own_peak / GIBIBYTE:.2f} GiB of {peak / GIBIBYTE:.2f} GiB"
    if case.memory_share is not None:
        rows.append((shown, own_peak / peak, case.memory_share))
    if case.memory_bytes is not None:
        rows.append((f"{shown}, as a share of 8 GiB", own_peak / case.memory_bytes, 1.0))
    if case.wall_all is not None:
        everything = sum(run["seconds"] for run in script.values())
        seconds = converting(figures["built"]["all"])
        shown = f"all six schemes, wall: {seconds:.0f} s of {everything:.0f} s"
        rows.append((shown, seconds / everything, case.wall_all))
    return rows


def main() -> int:
    """Run a case and print its figures; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=CASES, default="270m")
    case = CASES[parser.parse_args().model]
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as work:
        figures = measure(case, Path(work))
    print(json.dumps(figures, indent=1))
    print(f"\n{case.model}, prefill {case.prefill}, kv cache {case.kv_cache}; {cpu()}\n")
    print("| what | share | limit |\n|---|---|---|")
    rows = summary(case, figures)
    for shown, found, limit in rows:
        print(f"| {shown} | {found:.3f} | {limit:.2f} |")
    return int(any(found > limit for _, found, limit in rows))


def cpu() -> str:
    """Return the model and number of the processor's cores."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
