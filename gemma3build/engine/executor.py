"""Run the steps of a plan, each once, several at a time."""

from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from gemma3build.engine.cache import Cache, CacheEntry, tree_size
from gemma3build.engine.container import Containers, Mount
from gemma3build.engine.images import Image, Images
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.plan.graph import ExternalInput, Input, Step, StepOutput
from gemma3build.schema.step import OUTPUT_DIR
from gemma3build.util.files import FileDigest, sha256_bytes
from gemma3build.util.serialize import canonical_json


class Reporter(Protocol):
    """Shows progress; several threads call it."""

    def started(self, step: Step) -> None:
        """The container of a step starts."""

    def running(self, step: Step, memory: int, written: int) -> None:
        """A container runs; it uses this much memory and wrote this much, in bytes."""

    def finished(self, step: Step, entry: CacheEntry, *, cached: bool) -> None:
        """The result of a step is in the cache."""

    def failed(self, step: Step) -> None:
        """A step's container ended without a result."""


class InputProvider(Protocol):
    """Gives the files of external inputs."""

    def paths(self, material: ExternalInput) -> Mapping[str, Path]:
        """Return the path of each file of an input, downloading it first where needed."""

    def unchanged(self, material: ExternalInput) -> bool:
        """Return whether those files are still the planned ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedStep:
    """A finished step: its key in the cache, its entry, and whether the cache had it before."""

    key: str
    entry: CacheEntry
    cached: bool


class Executor:
    """Runs plans with one engine and one cache."""

    def __init__(
        self,
        *,
        cache: Cache,
        images: Images,
        containers: Containers,
        materials: InputProvider,
        sources: Mapping[str, str],
        reporter: Reporter,
        memory: int,
    ) -> None:
        """Set what a run needs.

        Args:
            cache: keeps results.
            images: makes images.
            containers: runs them.
            materials: gives files of external inputs.
            sources: digest of the source of each module of ``gemma3build.steps``.
            reporter: shows progress.
            memory: that all steps running at a time may need together, in bytes.
        """
        self._cache, self._images, self._containers = cache, images, containers
        self._materials, self._sources, self._reporter = materials, sources, reporter
        self._memory = memory

    def run(self, steps: tuple[Step, ...], jobs: int) -> dict[str, FinishedStep]:
        """Run all steps, at most ``jobs`` at a time and fewer if memory is short; return results by name.

        Raises:
            BuildError: the first step that failed; the others are stopped.
            KeyboardInterrupt: the containers are stopped and removed first.
        """
        # In this thread, the only one that Ctrl-C reaches: making an image takes minutes.
        images = {name: self._images.ensure(name) for name in needed_images(steps)}
        done: dict[str, FinishedStep] = {}
        pending = list(steps)
        running: dict[Future[FinishedStep], Step] = {}
        pool = ThreadPoolExecutor(max_workers=jobs)
        try:
            while pending or running:
                for step in [step for step in pending if step.needs <= done.keys()]:
                    if len(running) >= jobs or not self._fits(step, running.values()):
                        continue
                    pending.remove(step)
                    running[pool.submit(self._step, step, images[step.image], dict(done))] = step
                if not running:
                    _fail_waiting(pending)
                # A timeout lets Ctrl-C reach this thread.
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    done[running.pop(future).name] = future.result()
        except BaseException:  # Ctrl-C too: no container may outlive this
            self._containers.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return done

    def _fits(self, step: Step, running: Collection[Step]) -> bool:
        """Return whether there is memory for one more step; a single one always runs."""
        held = sum(other.memory for other in running)
        return not running or held + step.memory <= self._memory

    def _step(self, step: Step, image: Image, done: Mapping[str, FinishedStep]) -> FinishedStep:
        key = step_key(step, image, self._sources, done)
        with self._cache.lock(key, self._containers.check_stopped):
            entry = self._cache.find(key)
            if entry is not None and not step.fresh:
                self._reporter.finished(step, entry, cached=True)
                return FinishedStep(key=key, entry=entry, cached=True)
            self._containers.check_stopped()
            self._reporter.started(step)
            try:
                entry = self._run(step, image, key, done)
            except BaseException:
                self._reporter.failed(step)
                raise
        self._reporter.finished(step, entry, cached=False)
        return FinishedStep(key=key, entry=entry, cached=False)

    def _run(
        self, step: Step, image: Image, key: str, done: Mapping[str, FinishedStep]
    ) -> CacheEntry:
        mounts, inputs = self._mounts(step, done)
        self._check_inputs(step, f"{step.name} cannot start")
        self._containers.remove_orphans(self._cache.staged(key))
        staged = self._cache.stage(key)
        try:
            result = self._containers.run(
                step,
                image=image,
                staged=staged,
                inputs=inputs,
                mounts=mounts,
                on_memory=lambda memory: self._reporter.running(
                    step, memory, tree_size(staged / OUTPUT_DIR)
                ),
            )
            self._check_inputs(step, f"The result of {step.name} was discarded")
            return self._cache.commit(key, step.name, result)
        except BuildError as error:
            error.log_file = self._cache.keep_log(key, step.name)
            raise
        finally:
            self._cache.unstage(key)

    def _check_inputs(self, step: Step, what: str) -> None:
        """Raise BuildError for an external input that changed since it was planned."""
        for item in step.inputs.values():
            if isinstance(item, ExternalInput) and not self._materials.unchanged(item):
                why = f"the files of {item.name} changed, or one is gone"
                hint = "Run the same command again when nothing writes to them."
                raise BuildError(ErrorCode.INPUT_CHANGED, what, why, hint)

    def _mounts(
        self, step: Step, done: Mapping[str, FinishedStep]
    ) -> tuple[list[Mount], dict[str, Any]]:
        mounts: list[Mount] = []
        inputs: dict[str, Any] = {}
        for name, item in step.inputs.items():
            target = f"/inputs/{name}"
            if isinstance(item, StepOutput):
                folder = intact_output(self._cache, item.step, done, f"{step.name} cannot start")
                paths = {file.path: folder / file.path for file in files(item, done)}
            else:
                paths = dict(self._materials.paths(item))
            mounts += [Mount(path, f"{target}/{file}") for file, path in paths.items()]
            inputs[name] = target
        return mounts, inputs


def _fail_waiting(pending: list[Step]) -> NoReturn:
    names = ", ".join(step.name for step in pending)
    raise ValueError(f"no step of the plan has the inputs of {names}")


def intact_output(cache: Cache, step: str, done: Mapping[str, FinishedStep], what: str) -> Path:
    """Return the directory with the files of a step, after comparing them with their digests.

    Args:
        cache: keeps them.
        step: name of the step.
        done: results by name of step.
        what: for the message: what fails if a file is damaged.

    Raises:
        BuildError: a file was damaged; the result is removed (DAMAGED).
    """
    found = done[step]
    if not cache.verify(found.key, found.entry):
        why = f"the stored result of {step} was damaged, so gemma3build removed it"
        hint = "Run the same command again, which makes the result again."
        raise BuildError(ErrorCode.DAMAGED, what, why, hint)
    return cache.output(found.key)


def files(item: Input, done: Mapping[str, FinishedStep]) -> tuple[FileDigest, ...]:
    """Return the digests of the files of an input."""
    if isinstance(item, ExternalInput):
        return item.files
    return item.select(done[item.step].entry.digests)


def step_key(
    step: Step, image: Image, sources: Mapping[str, str], done: Mapping[str, FinishedStep]
) -> str:
    """Return the key of a step: SHA-256 over everything that its result depends on."""
    content = {
        "image": image.digest,
        "inputs": {name: files(item, done) for name, item in step.inputs.items()},
        "module": step.module,
        "parameters": step.parameters,
        "source": sources[step.module],
    }
    return sha256_bytes(canonical_json(content))


def find_results(
    steps: tuple[Step, ...], cache: Cache, images: Mapping[str, Image], sources: Mapping[str, str]
) -> dict[str, FinishedStep]:
    """Return the results that the cache has; a step whose image is missing has none."""
    done: dict[str, FinishedStep] = {}
    for step in steps:
        if step.image in images and step.needs <= done.keys():
            key = step_key(step, images[step.image], sources, done)
            entry = cache.find(key)
            if entry is not None:
                done[step.name] = FinishedStep(key=key, entry=entry, cached=True)
    return done


def needed_images(steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Return the names of the images in which steps run, ordered."""
    return tuple(sorted({step.image for step in steps}))
