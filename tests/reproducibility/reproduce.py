"""Build under variation, and fail on any difference.

    nox -s reproducibility                          a tiny checkpoint, every variation
    nox -s reproducibility -- --only clock          one variation; repeatable
    nox -s reproducibility -- --model gemma3-270m --only processor --only clock

Each variation builds with a separate cache, so that every step runs. The script compares SHA256SUMS,
which covers all artifacts and the manifest; a variation of the images changes the manifest, which names
them, so there the artifacts alone are compared. Needs root, for other users, and Debian's faketime.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from gemma3build.engine.cache import WHEELS
from gemma3build.engine.docker import connect
from gemma3build.engine.runner import CACHE_VARIABLE
from gemma3build.pins.config import load_images, load_schemes
from gemma3build.release.checksums import CHECKSUMS
from tests.support.checkpoint import write_checkpoint

PROJECT = Path(__file__).parents[2]
MEMORY = "/dev/shm"  # noqa: S108 - a directory in memory, for a directory of a random name
WORKER = Path(__file__).with_name("worker.py")
# For other users: the interpreter that runs this may be in root's home.
DEBIAN_PYTHON = "/usr/bin/python3"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SHAPES = ("--prefill-seq-lens", "8", "--kv-cache-max-len", "64")
DAY = 24 * 60 * 60
# What turns off every vector unit that a library of the images would choose by itself.
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    "OPENBLAS_CORETYPE": "Nehalem",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """One build that differs from the plain one.

    Attributes:
        name: what people select.
        what: what differs, for the table.
        environment: of the command.
        changes: of containers and images; see ``worker``.
        umask: of the command.
        user: id of the user and group of the command.
        folder: name of the directory with cache, checkpoint and release.
        memory_files: whether the checkpoint is in memory, its files made in the opposite order.
        warm: whether the cache is that of the plain build.
        same_images: whether the images, and so the manifest, must be the same.
    """

    name: str
    what: str
    environment: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    umask: int = 0o022
    user: int = 0
    folder: str = "work"
    memory_files: bool = False
    warm: bool = False
    same_images: bool = True


PLAIN = Variation(name="plain", what="nothing")


def variations(epoch: int) -> tuple[Variation, ...]:
    """Return all of them; ``epoch`` is the images' SOURCE_DATE_EPOCH in seconds."""
    clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+4000d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    inside = {name: value for name, value in clock.items() if name != "LD_PRELOAD"}
    place = {"TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}
    return (
        Variation(
            name="clock",
            what="clock eleven years ahead, on the host and in containers",
            environment=clock,
            changes={"environment": inside, "preload": str(FAKETIME)},
        ),
        Variation(
            name="place",
            what="time zone 14 hours ahead, Turkish locale, on the host and in containers",
            environment=place,
            changes={"environment": place},
        ),
        Variation(name="tight-umask", what="umask 077", umask=0o077),
        Variation(name="open-umask", what="umask 000", umask=0),
        Variation(name="user", what="user and group 12345", user=12345),
        Variation(
            name="folder",
            what="spaces and letters beyond ASCII in every path",
            folder="zwei Wörter 数",
        ),
        Variation(
            name="hash-seed",
            what="hash seed 4711, on the host and in containers",
            environment={"PYTHONHASHSEED": "4711"},
            changes={"environment": {"PYTHONHASHSEED": "4711"}},
        ),
        Variation(
            name="threads", what="one thread for every library", changes={"environment": ONE_THREAD}
        ),
        Variation(name="core", what="one core", changes={"cpus": "0"}),
        Variation(
            name="processor",
            what="no vector units beyond SSE4 where libraries can be told",
            changes={"environment": OLD_PROCESSOR},
        ),
        Variation(
            name="file-order",
            what="checkpoint in memory, its files made in the opposite order",
            memory_files=True,
        ),
        Variation(name="network", what="containers with a network", changes={"network": "bridge"}),
        Variation(name="warm", what="the cache of the plain build", warm=True),
        Variation(
            name="base",
            what="all images made again, a day later",
            changes={"epoch": epoch + DAY},
            same_images=False,
        ),
        Variation(
            name="buildkit",
            what="all images made again, by BuildKit",
            changes={"buildkit": True},
        ),
    )


def build(variation: Variation, root: Path, model: str | None) -> dict[str, str]:
    """Build below ``root``; return the digests of what is released, by name of file."""
    place = root / variation.name / variation.folder
    place.mkdir(parents=True)
    cache = (root / PLAIN.name / PLAIN.folder if variation.warm else place) / "cache"
    if model and variation is not PLAIN and not variation.warm:
        # Checked by digest, and no index would trust the clock of some variations.
        shutil.copytree(root / PLAIN.name / PLAIN.folder / "cache" / WHEELS, cache / WHEELS)
    with tempfile.TemporaryDirectory(dir=MEMORY) as memory:
        request = ["--model", model] if model else tiny(variation, place, Path(memory))
        for path in (place, *place.rglob("*"), Path(memory), *Path(memory).rglob("*")):
            os.chown(path, variation.user, variation.user)
        python = DEBIAN_PYTHON if variation.user else sys.executable
        command = [python, str(WORKER), json.dumps(variation.changes), "build", *request]
        done = subprocess.run(
            [*command, "--output", str(place / "release"), "--json"],
            cwd=place,
            env={
                **os.environ,
                CACHE_VARIABLE: str(cache),
                "PYTHONPATH": f"{PROJECT}:{sysconfig.get_path('purelib')}",
                **variation.environment,
            },
            user=variation.user,
            group=variation.user,
            extra_groups=[Path("/var/run/docker.sock").stat().st_gid],
            umask=variation.umask,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        message = f"{variation.name}: exit code {done.returncode}\n{done.stderr}"
        raise RuntimeError(message)
    text = (place / "release" / CHECKSUMS).read_text(encoding="utf-8")
    sums = {
        name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())
    }
    if variation.same_images:
        return sums
    names = {file["path"] for file in json.loads(done.stdout)["files"]}
    return {name: digest for name, digest in sums.items() if name in names}


def tiny(variation: Variation, place: Path, memory: Path) -> list[str]:
    """Write the tiny checkpoint; return the arguments of a build of it."""
    folder = write_checkpoint(place / "tiny")
    if variation.memory_files:
        # A directory in memory lists the latest file first, one on disk by hashes of names.
        names = sorted(path.name for path in folder.iterdir())
        listed = [path.name for path in (place / "tiny").iterdir()]
        order = names if listed != names[::-1] else names[::-1]
        target = memory / "tiny"
        target.mkdir()
        for name in order:
            shutil.copyfile(folder / name, target / name)
        folder = target
    schemes = [argument for scheme in load_schemes() for argument in ("--scheme", scheme)]
    return ["--checkpoint", str(folder), *SHAPES, *schemes]


def differences(plain: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return the names of files that are not as the plain build made them."""
    return sorted(name for name, digest in found.items() if plain.get(name) != digest)


def remove_images(client: docker.DockerClient, known: frozenset[str]) -> None:
    """Remove the project's images that were not there before."""
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith("gemma3build/") and tag not in known:
                client.images.remove(tag)


def tags(client: docker.DockerClient) -> frozenset[str]:
    """Return the tags of all images."""
    return frozenset(tag for image in client.images.list() for tag in image.tags)


def main() -> int:
    """Build, compare, print; return 1 if anything differs."""
    parser = argparse.ArgumentParser(description="Build under variation; fail on any difference.")
    all_variations = variations(load_images().source_date_epoch)
    parser.add_argument("--only", action="append", choices=[item.name for item in all_variations])
    parser.add_argument("--model", help="a pinned model, instead of a tiny checkpoint")
    arguments = parser.parse_args()
    if os.geteuid() or not FAKETIME.is_file():
        parser.error("needs root and Debian's faketime: apt-get install faketime")
    client = connect()
    failed = False
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        plain = build(PLAIN, root, arguments.model)
        for item in all_variations:
            if arguments.only and item.name not in arguments.only:
                continue
            start, known = time.monotonic(), tags(client)
            found = build(item, root, arguments.model)
            different = differences(plain, found)
            verdict = f"DIFFERENT: {', '.join(different)}" if different else "the same"
            seconds = time.monotonic() - start
            print(
                f"{item.name:12} {item.what:64} {len(found):2} files {seconds:5.0f} s  {verdict}",
                flush=True,
            )
            failed = failed or bool(different)
            remove_images(client, known)
            shutil.rmtree(root / item.name)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
