"""Runs steps, after a preflight, with the images and the cache of one machine."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import getproxies_environment

import docker
import platformdirs

from gemma3build.engine import preflight
from gemma3build.engine.cache import UNUSABLE, Cache
from gemma3build.engine.container import ENDPOINT, PROXIES, Containers
from gemma3build.engine.executor import (
    Executor,
    FinishedStep,
    InputProvider,
    Reporter,
    find_results,
    needed_images,
    step_key,
)
from gemma3build.engine.images import Image, Images
from gemma3build.engine.packages import image_packages
from gemma3build.errors import os_errors
from gemma3build.pins.config import load_images
from gemma3build.plan.graph import Step
from gemma3build.plan.sources import step_sources
from gemma3build.schema.packages import Packages
from gemma3build.schema.step import OUTPUT_DIR, StepResult
from gemma3build.util.files import sha256_bytes
from gemma3build.util.git import PACKAGE_DIR
from gemma3build.util.serialize import canonical_json

CACHE_VARIABLE = "GEMMA3BUILD_CACHE"
RUN = "\ndef run(request: StepRequest"  # in each module of steps that is a step itself
STEP_ROOMS = (
    "formats",
    "gemma",
    "schema",
    "steps",
    "util",
)  # packages whose code a container may run


def cache_dir() -> Path:
    """Return the directory of the cache: GEMMA3BUILD_CACHE, or the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).resolve() if chosen else platformdirs.user_cache_path("gemma3build")


class Runner:
    """One engine, one cache, and the images of this version.

    Attributes:
        cache: keeps results.
        downloads: the cache that keeps wheels.
        config: content of images.toml.
        sources: digest of the source of each module of ``gemma3build.steps``.
        say: gets a line before a long task.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        cache: Cache,
        say: Callable[[str], None],
        memory_limit: int | None = None,
        downloads: Cache | None = None,
        archived: Path | None = None,
    ) -> None:
        """Set what steps run with.

        Args:
            client: the engine.
            cache: keeps results.
            say: gets a line before a long task.
            memory_limit: of each container, in bytes; None leaves it to the machine.
            downloads: the cache that keeps wheels, if not ``cache``.
            archived: a directory with the base image as files, if it is not built.
        """
        self._client, self._memory_limit = client, memory_limit
        self.cache, self.say = cache, say
        self.downloads = downloads or cache
        self.config = load_images()
        self.sources = source_digests()
        self._images = Images(client, self.downloads, self.config, say, archived=archived)

    def images(self, steps: tuple[Step, ...]) -> dict[str, Image]:
        """Return the images of some steps by name, making those that are missing."""
        return {name: self._images.ensure(name) for name in needed_images(steps)}

    def packages(self, images: Mapping[str, Image]) -> dict[str, Packages]:
        """Return the packages of images, by name."""
        return {
            name: image_packages(self._client, self.downloads, image)
            for name, image in images.items()
        }

    def forget_images(self) -> None:
        """Remove images that were made from an archive."""
        self._images.forget()

    def export_base(self, folder: Path) -> None:
        """Write the base image to a directory as files; raises BuildError (IMAGE)."""
        self._images.export_base(folder)

    def image(self, name: str) -> Image:
        """Return an image, making it if it is missing."""
        return self._images.ensure(name)

    def found(self, steps: tuple[Step, ...]) -> dict[str, FinishedStep]:
        """Return the results in the cache of steps whose image exists; raises BuildError (OUTPUT)."""
        found = {name: self._images.find(name) for name in needed_images(steps)}
        images = {name: image for name, image in found.items() if image is not None}
        with os_errors(UNUSABLE):
            return find_results(steps, self.cache, images, self.sources)

    def keep(self, step: Step, files: Mapping[str, Path]) -> None:
        """Copy files, by their names, into the cache as the result of a step without inputs; raises BuildError."""
        key = step_key(step, self.image(step.image), self.sources, {})
        with os_errors(f"The result of {step.name} cannot be kept"), self.cache.lock(key):
            folder = self.cache.stage(key) / OUTPUT_DIR
            for name, path in files.items():
                shutil.copyfile(path, folder / name)
            self.cache.commit(key, step.name, StepResult(seconds=0.0, peak_memory=0))

    def fitting(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Return the steps that have to run, after a preflight of them; raises BuildError."""
        with os_errors(UNUSABLE):
            self.cache.root.mkdir(parents=True, exist_ok=True)
        preflight.check_writable(self.cache.root)
        found = self.found(steps)
        missing = tuple(step for step in steps if step.fresh or step.name not in found)
        if any(step.network for step in missing):  # otherwise the Hub's client need not be loaded
            preflight.check_offline(missing)
        available = preflight.available_memory()
        preflight.check_memory(missing, min(self._memory_limit or available, available))
        preflight.check_disk(sum(step.disk for step in missing), self.cache.root)
        return missing

    def run(
        self, steps: tuple[Step, ...], materials: InputProvider, jobs: int, reporter: Reporter
    ) -> dict[str, FinishedStep]:
        """Run the steps that have to run; return all results by name of step; raises BuildError."""
        networked = any(step.network for step in self.fitting(steps))
        executor = Executor(
            cache=self.cache,
            images=self._images,
            containers=Containers(
                self._client,
                epoch=self.config.source_date_epoch,
                memory_limit=self._memory_limit,
                environment=network_environment() if networked else None,
            ),
            materials=materials,
            sources=self.sources,
            reporter=reporter,
            memory=preflight.available_memory(),
        )
        with os_errors("The steps stopped"):
            return executor.run(steps, jobs)


@contextmanager
def open_runner(say: Callable[[str], None], memory_limit: int | None = None) -> Iterator[Runner]:
    """Yield a runner in the user's cache, which no other process empties meanwhile.

    Args:
        say: gets a line before a long task.
        memory_limit: of each container, in bytes; None leaves it to the machine.

    Raises:
        BuildError: no engine answers (ENGINE).
    """
    from gemma3build.engine.docker import connect

    client, cache = connect(), Cache(cache_dir())
    with cache.in_use():
        yield Runner(client, cache, say, memory_limit)


def network_environment() -> dict[str, str]:
    """Return the proxies, endpoint and token for containers with a network."""
    found = {f"{name}_proxy": value for name, value in getproxies_environment().items()}
    wanted = {name: found.get(name) for name in (*PROXIES, "no_proxy")}
    wanted |= {"HF_TOKEN": hub_token(), ENDPOINT: os.environ.get(ENDPOINT)}
    return {name: value for name, value in wanted.items() if value}


def hub_token() -> str | None:
    """Return the token that the Hub's own client would use: HF_TOKEN, or its saved login."""
    from huggingface_hub import get_token

    return get_token()


def source_digests() -> dict[str, str]:
    """Return the digest of all source code of each step, by module of ``gemma3build.steps``."""
    paths = {
        ".".join((PACKAGE_DIR.name, *path.relative_to(PACKAGE_DIR).with_suffix("").parts)): path
        for room in STEP_ROOMS
        for path in (PACKAGE_DIR / room).rglob("*.py")
    }
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    sources = {name: [text] for name, text in texts.items()}
    for name, path in paths.items():
        data = path.with_suffix(".toml")  # a module may read a data file of its own name
        if data.exists():
            sources[name].append(data.read_text(encoding="utf-8"))
    steps = f"{PACKAGE_DIR.name}.steps."
    modules = sorted(
        name.removeprefix(steps)
        for name, text in texts.items()
        if name.startswith(steps) and RUN in text
    )
    return {
        module: sha256_bytes(
            canonical_json({name: sources[name] for name in step_sources(module, texts)})
        )
        for module in modules
    }
