"""Make the plan of a request, or of the manifest of a release, from the pins; write nothing."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from gemma3build.engine.inputs import LocalCheckpoint
from gemma3build.errors import BuildError, ErrorCode, from_step
from gemma3build.gemma.architecture import Architecture
from gemma3build.gemma.checkpoint import TOKENIZER, checkpoint_architecture
from gemma3build.pins.config import find_model, find_schemes, load_models
from gemma3build.pins.lockfile import LockedModel, model_drift, read_models_lock, refuse_drift
from gemma3build.plan.build import plan_build
from gemma3build.plan.graph import CheckpointSource, Plan
from gemma3build.release.manifest import LOCAL
from gemma3build.schema.manifest import Manifest, Parameters
from gemma3build.schema.scheme import Scheme
from gemma3build.schema.step import StepError
from gemma3build.util.files import FileDigest

# For a user's own checkpoint: those of the smallest model on the converter's page.
DEFAULT_PREFILL_SEQ_LENS = (128,)
DEFAULT_KV_CACHE_MAX_LEN = 1024
DEFAULT_SCHEMES = ("dynamic_int8", "dynamic_int4_block32", "dynamic_int4_block128")
HUB_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
REBUILD = "Build it again: gemma3build build"
OTHER_VERSION = "Use the version of gemma3build that built the release."


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """The options of ``build``; None stands for the model's default.

    Attributes:
        model: name of a pinned model; empty for the user's own checkpoint.
        schemes: names of schemes, ``all``, paths of scheme files, or schemes.
        checkpoint: folder of the user's own checkpoint, instead of a pinned model.
        tokenizer: a tokenizer.model, instead of the checkpoint's.
        name: name of the release, instead of the model's or the folder's.
        prefill_seq_lens: lengths of the prefill signatures, in tokens.
        kv_cache_max_len: length of the key-value cache, in tokens.
        mask_as_input: whether the caller passes the attention mask.
    """

    model: str = ""
    schemes: tuple[str | Scheme, ...] = ()
    checkpoint: Path | None = None
    tokenizer: Path | None = None
    name: str | None = None
    prefill_seq_lens: tuple[int, ...] = ()
    kv_cache_max_len: int | None = None
    mask_as_input: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCheckpoint:
    """The user's copy of a checkpoint, if any, and the tokenizer.model that goes with it."""

    folder: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan, and the origin of its checkpoint."""

    plan: Plan
    origin: LocalCheckpoint | LockedModel


def prepare_build(request: BuildRequest) -> Prepared:
    """Return the plan of a request; raises BuildError if it cannot be built."""
    if request.checkpoint is not None:
        if request.model:
            what = "`--model` and `--checkpoint` cannot be used together"
            why = "`--model` names a pinned checkpoint, `--checkpoint` is the folder of your own"
            raise BuildError(ErrorCode.REQUEST, what, why, "Use one of them.")
        return prepare_local(request, request.checkpoint)
    if request.tokenizer is not None:
        what = "`--tokenizer` cannot be used without `--checkpoint`"
        why = "a pinned model has its own tokenizer"
        raise BuildError(ErrorCode.REQUEST, what, why, "Add `--checkpoint DIR`.")
    model = find_model(request.model)
    locked = read_models_lock().models.get(request.model)
    refuse_drift(model_drift(request.model, model, locked), f"gemma3build lock {request.model}")
    assert locked is not None  # noqa: S101 - refuse_drift raises
    plan = plan_build(
        model=request.model if request.name is None else request.name,
        base_model=model.base_model,
        shape=model.shape,
        context=model.context,
        pinned=True,
        source=CheckpointSource(locked=locked),
        parameters=make_parameters(request, model.prefill_seq_lens, model.kv_cache_max_len),
        schemes=find_schemes(request.schemes or model.schemes),
    )
    return Prepared(plan=plan, origin=locked)


def make_parameters(
    request: BuildRequest, prefill_seq_lens: tuple[int, ...], kv_cache_max_len: int
) -> Parameters:
    """Return the parameters of a request, or these defaults."""
    length = request.kv_cache_max_len  # zero is no default: the planner rejects it
    return Parameters(
        prefill_seq_lens=request.prefill_seq_lens or prefill_seq_lens,
        kv_cache_max_len=kv_cache_max_len if length is None else length,
        mask_as_input=request.mask_as_input,
    )


def prepare_local(request: BuildRequest, folder: Path) -> Prepared:
    """Return the plan of a user's own checkpoint."""
    schemes = find_schemes(request.schemes or DEFAULT_SCHEMES)
    architecture, local = read_checkpoint(folder, request.tokenizer)
    plan = plan_build(
        model=folder.resolve().name if request.name is None else request.name,
        base_model="",
        shape=architecture.shape,
        context=architecture.context,
        pinned=False,
        source=CheckpointSource(checkpoint=local.material),
        parameters=make_parameters(request, DEFAULT_PREFILL_SEQ_LENS, DEFAULT_KV_CACHE_MAX_LEN),
        schemes=schemes,
    )
    return Prepared(plan=plan, origin=local)


def read_checkpoint(folder: Path, tokenizer: Path | None) -> tuple[Architecture, LocalCheckpoint]:
    """Return the architecture and the files of a user's own checkpoint.

    Raises:
        BuildError: it cannot be read (REQUEST), or cannot be built.
    """
    what = f"The checkpoint {folder} cannot be read"
    if not folder.is_dir():
        hint = "Check the path."
        if HUB_REPO.fullmatch(str(folder)):
            hint += f" For a repository on the Hub, run `hf download {folder} --local-dir DIR`"
            hint += " and use --checkpoint DIR, or pin it in models.toml."
        raise BuildError(ErrorCode.REQUEST, what, "it is not a folder", hint)
    try:
        return checkpoint_architecture(folder), LocalCheckpoint(folder, tokenizer)
    except StepError as error:
        raise from_step(error.failure) from error
    except OSError as error:
        why = error.strerror or str(error)
        raise BuildError(ErrorCode.REQUEST, what, why, "Check the path.") from error


def prepare_again(
    manifest: Manifest, own: OwnCheckpoint, what: str, schemes: tuple[Scheme, ...] = ()
) -> Prepared:
    """Return a plan for the checkpoint that a release was built from.

    Args:
        manifest: the release's.
        own: the user's copy of a checkpoint that is not pinned.
        what: the first sentence of errors.
        schemes: those to build; empty for the defaults.

    Raises:
        BuildError: the checkpoint is missing or another one (REQUEST); its model is pinned, but not
            locked (DRIFT).
    """
    record = manifest.checkpoint
    parameters = manifest.parameters
    wanted = BuildRequest(
        name=record.model,
        schemes=schemes,
        prefill_seq_lens=parameters.prefill_seq_lens,
        kv_cache_max_len=parameters.kv_cache_max_len,
        mask_as_input=parameters.mask_as_input,
    )
    if record.source == LOCAL:
        if own.folder is None:
            why = "it was built from a checkpoint that is not pinned"
            hint = "Add --checkpoint DIR with the same checkpoint."
            raise BuildError(ErrorCode.REQUEST, what, why, hint)
        wanted = dataclasses.replace(wanted, checkpoint=own.folder, tokenizer=own.tokenizer)
        prepared = prepare_build(wanted)
        assert isinstance(prepared.origin, LocalCheckpoint)  # noqa: S101 - of a folder
        refuse_other_files(prepared.origin.material.files, record.files, own.folder, what)
        return prepared
    lock = read_models_lock().models
    for name, locked in lock.items():
        if (locked.source, locked.revision) == (record.source, record.revision):
            if set(locked.files) - set(record.files) != set(record.fetched):
                why = f"its manifest names other files of {record.source} than the lockfile"
                raise BuildError(ErrorCode.REQUEST, what, why, OTHER_VERSION)
            return prepare_build(dataclasses.replace(wanted, model=name))
    for name, model in load_models().items():  # such as a gated one that is not locked here
        if model.hub and (model.hub.repo, model.hub.revision) == (record.source, record.revision):
            refuse_drift(model_drift(name, model, lock.get(name)), f"gemma3build lock {name}")
    why = f"no model is pinned to {record.source} at {record.revision}"
    raise BuildError(ErrorCode.REQUEST, what, why, OTHER_VERSION)


def released_schemes(manifest: Manifest, what: str) -> tuple[Scheme, ...]:
    """Return the schemes of a release in full; raises BuildError (REQUEST)."""
    return tuple(find_scheme(manifest, name, what) for name in sorted(manifest.schemes))


def find_scheme(manifest: Manifest, name: str, what: str) -> Scheme:
    """Return a scheme of a release; raises BuildError if its manifest has none of this name."""
    scheme = manifest.schemes.get(name)
    if scheme is None:
        raise BuildError(ErrorCode.REQUEST, what, f"its manifest has no scheme {name!r}", REBUILD)
    if scheme.name != name:
        why = f"its manifest has {scheme.name!r} under the name {name!r}"
        raise BuildError(ErrorCode.REQUEST, what, why, REBUILD)
    return scheme


def refuse_other_files(
    found: tuple[FileDigest, ...], expected: tuple[FileDigest, ...], folder: Path, what: str
) -> None:
    """Raise BuildError for another checkpoint or tokenizer than in the manifest."""
    differing = {file.path for file in set(found) ^ set(expected)}
    if differing == {TOKENIZER}:
        why = f"it was built with another {TOKENIZER} than that of {folder}"
        raise BuildError(ErrorCode.REQUEST, what, why, "Add --tokenizer FILE with the same file.")
    if differing:
        why = f"{folder} is not the checkpoint in its manifest"
        hint = "Use the checkpoint that the release was built from."
        raise BuildError(ErrorCode.REQUEST, what, why, hint)
