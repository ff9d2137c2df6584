"""From what a person asks for to a plan, by way of the pins; nothing is written."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gemma3build.core.architecture import Architecture
from gemma3build.core.checkpoint import checkpoint_architecture
from gemma3build.core.scheme import Scheme
from gemma3build.core.step import StepError
from gemma3build.engine.materials import LocalCheckpoint
from gemma3build.errors import RequestError, StepFailedError
from gemma3build.pins.drift import model_drift, refuse_drift
from gemma3build.pins.intent import find_model, find_schemes
from gemma3build.pins.lock import LockedModel, read_models_lock
from gemma3build.plan.planner import CHECK, plan_build
from gemma3build.plan.step import Parameters, Plan, Source

# For a user's own checkpoint: what the converter's page uses for its smallest model.
DEFAULT_PREFILL_SEQ_LENS = (128,)
DEFAULT_KV_CACHE_MAX_LEN = 1024
DEFAULT_SCHEMES = ("dynamic_int8", "dynamic_int4_block32", "dynamic_int4_block128")
HUB_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SENSELESS = "The request makes no sense"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asks for; None stands for the model's default.

    Attributes:
        model: name of a pinned model; empty for a checkpoint of the user's own.
        schemes: names of schemes, ``all``, paths of scheme files, or schemes.
        checkpoint: a directory of the user's own, instead of a pinned model.
        tokenizer: a tokenizer.model, instead of the checkpoint's.
        name: name of the release, instead of the model's or the directory's.
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
class Prepared:
    """A plan, and where its files from outside come from."""

    plan: Plan
    origin: LocalCheckpoint | LockedModel


def prepare(request: Request) -> Prepared:
    """Return the plan of a request; reads pins and the user's checkpoint, writes nothing.

    Raises:
        BuildError: the request is about nothing that can be built.
    """
    if request.checkpoint is not None:
        if request.model:
            why = "a model by name and a checkpoint of one's own are two"
            raise RequestError(SENSELESS, why, "Give --model or --checkpoint.")
        return prepare_local(request, request.checkpoint)
    if request.tokenizer is not None:
        why = "--tokenizer goes with --checkpoint"
        raise RequestError(SENSELESS, why, "Give both or neither.")
    model = find_model(request.model)
    locked = read_models_lock().models.get(request.model)
    refuse_drift(model_drift(request.model, model, locked), f"gemma3build lock {request.model}")
    assert locked is not None  # noqa: S101 - else it had drifted
    plan = plan_build(
        model=otherwise(request.name, request.model),
        base_model=model.base_model,
        shape=model.shape,
        context=model.context,
        pinned=True,
        source=Source(locked=locked),
        parameters=Parameters(
            prefill_seq_lens=request.prefill_seq_lens or model.prefill_seq_lens,
            kv_cache_max_len=otherwise(request.kv_cache_max_len, model.kv_cache_max_len),
            mask_as_input=request.mask_as_input,
        ),
        schemes=find_schemes(request.schemes or model.schemes),
    )
    return Prepared(plan=plan, origin=locked)


def otherwise(asked: T | None, default: T) -> T:
    """Return what was asked for, be it zero or empty, else the default."""
    return default if asked is None else asked


def prepare_local(request: Request, folder: Path) -> Prepared:
    """Return the plan of a user's own checkpoint."""
    schemes = find_schemes(request.schemes or DEFAULT_SCHEMES)
    parameters = Parameters(
        prefill_seq_lens=request.prefill_seq_lens or DEFAULT_PREFILL_SEQ_LENS,
        kv_cache_max_len=otherwise(request.kv_cache_max_len, DEFAULT_KV_CACHE_MAX_LEN),
        mask_as_input=request.mask_as_input,
    )
    architecture, local = read_checkpoint(folder, request.tokenizer)
    plan = plan_build(
        model=otherwise(request.name, folder.resolve().name),
        base_model="",
        shape=architecture.shape,
        context=architecture.context,
        pinned=False,
        source=Source(checkpoint=local.material),
        parameters=parameters,
        schemes=schemes,
    )
    return Prepared(plan=plan, origin=local)


def read_checkpoint(folder: Path, tokenizer: Path | None) -> tuple[Architecture, LocalCheckpoint]:
    """Return the architecture and the files of a user's own checkpoint.

    Raises:
        StepFailedError: it is none that can be built.
        RequestError: it cannot be read.
    """
    what = f"The checkpoint {folder} cannot be read"
    if not folder.is_dir():
        hint = "Check the path."
        if HUB_REPO.fullmatch(str(folder)):
            hint += f" For a repository of the Hub: `hf download {folder} --local-dir DIR` first,"
            hint += " then --checkpoint DIR; or pin it in models.toml."
        raise RequestError(what, "it is no directory", hint)
    try:
        return checkpoint_architecture(folder), LocalCheckpoint(folder, tokenizer)
    except StepError as error:
        raise StepFailedError(CHECK, error.failure) from error
    except OSError as error:
        raise RequestError(what, error.strerror or str(error), "Check the path.") from error
