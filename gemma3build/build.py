"""The main job: from a request to a release, by way of a plan."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import platformdirs

from gemma3build.core.canonical import canonical_json
from gemma3build.core.checkpoint import checkpoint_architecture
from gemma3build.core.digests import sha256_bytes
from gemma3build.core.manifest import Manifest
from gemma3build.core.step import StepError
from gemma3build.engine import preflight
from gemma3build.engine.container import PACKAGE_DIR, Containers
from gemma3build.engine.executor import (
    Done,
    Executor,
    Materials,
    Reporter,
    find_results,
    image_names,
    intact_output,
)
from gemma3build.engine.images import Images
from gemma3build.engine.materials import LocalCheckpoint, PackagedModel
from gemma3build.engine.store import Store
from gemma3build.errors import RequestError, StepFailedError, from_os_error
from gemma3build.pins.drift import model_drift, refuse_drift
from gemma3build.pins.intent import find_model, find_schemes, load_images
from gemma3build.pins.lock import LockedModel, read_models_lock
from gemma3build.plan.planner import CHECK, plan_build
from gemma3build.plan.sources import step_sources
from gemma3build.plan.step import Parameters, Plan, Source
from gemma3build.record.manifest import make_manifest
from gemma3build.record.release import Release, is_written, write

CACHE_VARIABLE = "GEMMA3BUILD_CACHE"
# For a user's own checkpoint: what the converter's page uses for its smallest model.
DEFAULT_PREFILL_SEQ_LENS = (128,)
DEFAULT_KV_CACHE_MAX_LEN = 1024
DEFAULT_SCHEMES = ("dynamic_int8", "dynamic_int4_block32", "dynamic_int4_block128")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asks for; None stands for the model's default.

    Attributes:
        model: name of a pinned model.
        schemes: names of schemes, ``all``, or paths of scheme files.
        checkpoint: a directory of the user's own, instead of a pinned model.
        tokenizer: a tokenizer.model, instead of the checkpoint's.
        name: name of the release, instead of the model's or the directory's.
        prefill_seq_lens: lengths of the prefill signatures, in tokens.
        kv_cache_max_len: length of the key-value cache, in tokens.
        mask_as_input: whether the caller passes the attention mask.
    """

    model: str
    schemes: tuple[str, ...] = ()
    checkpoint: Path | None = None
    tokenizer: Path | None = None
    name: str | None = None
    prefill_seq_lens: tuple[int, ...] = ()
    kv_cache_max_len: int | None = None
    mask_as_input: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan, and where its files from outside come from."""

    plan: Plan
    origin: LocalCheckpoint | LockedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a build did.

    Attributes:
        manifest: the record of the release.
        folder: where the release is.
        done: results of the steps by name.
        idle: whether nothing had to be done.
    """

    manifest: Manifest
    folder: Path
    done: Mapping[str, Done]
    idle: bool


def cache_dir() -> Path:
    """Return where results and downloads are kept: GEMMA3BUILD_CACHE, or the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).resolve() if chosen else platformdirs.user_cache_path("gemma3build")


def prepare(request: Request) -> Prepared:
    """Return the plan of a request; reads pins and the user's checkpoint, writes nothing.

    Raises:
        BuildError: the request is about nothing that can be built.
    """
    if request.checkpoint is not None:
        return prepare_local(request, request.checkpoint)
    if request.tokenizer is not None:
        why = "--tokenizer goes with --checkpoint"
        raise RequestError("The request makes no sense", why, "Give both or neither.")
    model = find_model(request.model)
    locked = read_models_lock().models.get(request.model)
    refuse_drift(model_drift(request.model, model, locked), f"gemma3build lock {request.model}")
    assert locked is not None  # noqa: S101 - else it had drifted
    plan = plan_build(
        model=request.name or request.model,
        base_model=model.base_model,
        shape=model.shape,
        context=model.context,
        pinned=True,
        source=Source(locked=locked),
        parameters=Parameters(
            prefill_seq_lens=request.prefill_seq_lens or model.prefill_seq_lens,
            kv_cache_max_len=request.kv_cache_max_len or model.kv_cache_max_len,
            mask_as_input=request.mask_as_input,
        ),
        schemes=find_schemes(request.schemes or model.schemes),
    )
    return Prepared(plan=plan, origin=locked)


def prepare_local(request: Request, folder: Path) -> Prepared:
    """Return the plan of a user's own checkpoint."""
    schemes = find_schemes(request.schemes or DEFAULT_SCHEMES)
    parameters = Parameters(
        prefill_seq_lens=request.prefill_seq_lens or DEFAULT_PREFILL_SEQ_LENS,
        kv_cache_max_len=request.kv_cache_max_len or DEFAULT_KV_CACHE_MAX_LEN,
        mask_as_input=request.mask_as_input,
    )
    try:
        architecture = checkpoint_architecture(folder)
        local = LocalCheckpoint(folder, request.tokenizer)
    except StepError as error:
        raise StepFailedError(CHECK, error.failure) from error
    except OSError as error:
        what = f"The checkpoint {folder} cannot be read"
        raise RequestError(what, error.strerror or str(error), "Check the path.") from error
    plan = plan_build(
        model=request.name or folder.resolve().name,
        base_model="",
        shape=architecture.shape,
        context=architecture.context,
        pinned=False,
        source=Source(checkpoint=local.material),
        parameters=parameters,
        schemes=schemes,
    )
    return Prepared(plan=plan, origin=local)


class Builder:
    """Builds prepared plans with one engine and one store."""

    def __init__(
        self,
        client: docker.DockerClient,
        store: Store,
        say: Callable[[str], None],
        memory_limit: int | None = None,
    ) -> None:
        """Take an engine, a store, and somewhere to say what takes long."""
        self._client, self._store, self._say = client, store, say
        self._memory_limit = memory_limit
        self._intent = load_images()
        self._images = Images(client, store, self._intent, say)
        self._sources = source_digests()

    def find(self, prepared: Prepared, folder: Path) -> Outcome | None:
        """Return the release if it is there already, whole; starts nothing."""
        plan = prepared.plan
        done = self._found(plan)
        if len(done) < len(plan.steps):
            return None
        release = self._release(plan, done)
        if not is_written(release, folder):
            return None
        return Outcome(manifest=release.manifest, folder=folder, done=done, idle=True)

    def build(self, prepared: Prepared, folder: Path, jobs: int, reporter: Reporter) -> Outcome:
        """Run what has to run and write the release.

        Raises:
            BuildError: something failed; what was finished is kept.
        """
        plan = prepared.plan
        preflight.check_output(folder)
        try:
            self._store.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error("The cache cannot be used", error) from error
        found = self._found(plan)
        missing = tuple(step for step in plan.steps if step.name not in found)
        available = preflight.available_memory()
        preflight.check_memory(missing, min(self._memory_limit or available, available))
        preflight.check_disk(missing, self._store.root)
        try:
            done = self._executor(prepared, reporter).run(plan, jobs)
        except OSError as error:
            raise from_os_error("The build stopped", error) from error
        for artifact in plan.artifacts:
            # What no later step read was not read since it was written, maybe weeks ago.
            what = "The release cannot be written"
            intact_output(self._store, artifact.source.step, done, what)
        release = self._release(plan, done)
        with self._store.lock(sha256_bytes(os.fsencode(folder.resolve()))):
            preflight.check_replaceable(folder)
            write(release, folder)
        return Outcome(manifest=release.manifest, folder=folder, done=done, idle=False)

    def _found(self, plan: Plan) -> dict[str, Done]:
        """Return the results that are there already; without its images, none counts."""
        images = {name: self._images.find(name) for name in image_names(plan)}
        there = {name: image for name, image in images.items() if image is not None}
        if len(there) < len(images):
            return {}
        return find_results(plan, self._store, there, self._sources)

    def _executor(self, prepared: Prepared, reporter: Reporter) -> Executor:
        materials: Materials = (
            prepared.origin
            if isinstance(prepared.origin, LocalCheckpoint)
            else PackagedModel(self._store, prepared.origin, self._intent, self._say)
        )
        return Executor(
            store=self._store,
            images=self._images,
            containers=Containers(
                self._client,
                epoch=self._intent.source_date_epoch,
                memory_limit=self._memory_limit,
                token=os.environ.get("HF_TOKEN"),
                endpoint=os.environ.get("HF_ENDPOINT"),
            ),
            materials=materials,
            sources=self._sources,
            reporter=reporter,
        )

    def _release(self, plan: Plan, done: Mapping[str, Done]) -> Release:
        images = {name: self._images.ensure(name) for name in image_names(plan)}
        manifest = make_manifest(plan, done, images, self._sources)
        artifacts = {}
        for artifact in plan.artifacts:
            folder = self._store.output(done[artifact.source.step].key)
            artifacts[artifact.file_name] = folder / artifact.source.path
        return Release(manifest=manifest, artifacts=artifacts)


def source_digests() -> dict[str, str]:
    """Return the digest of all source that each module of ``gemma3build.steps`` runs, by module."""
    paths = [*(PACKAGE_DIR / "core").glob("*.py"), *(PACKAGE_DIR / "steps").glob("*.py")]
    texts = {
        f"gemma3build.{path.parent.name}.{path.stem}": path.read_text(encoding="utf-8")
        for path in paths
    }
    modules = [path.stem for path in (PACKAGE_DIR / "steps").glob("*.py") if path.stem[0] != "_"]
    return {
        module: sha256_bytes(
            canonical_json({name: texts[name] for name in step_sources(module, texts)})
        )
        for module in modules
    }
