"""From the manifest of a release back to a plan for its checkpoint; nothing is written."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gemma3build.core.checkpoint import TOKENIZER
from gemma3build.core.codec import DecodeError, decode
from gemma3build.core.digests import FileDigest
from gemma3build.core.manifest import Manifest
from gemma3build.core.scheme import Scheme
from gemma3build.engine.materials import LocalCheckpoint
from gemma3build.errors import RequestError
from gemma3build.pins.drift import model_drift, refuse_drift
from gemma3build.pins.intent import load_models
from gemma3build.pins.lock import read_models_lock
from gemma3build.plan.step import Parameters
from gemma3build.record.manifest import LOCAL
from gemma3build.request import Prepared, Request, prepare

REBUILD = "Build it again: nox -s build"
OTHER_VERSION = "Use the version of gemma3build that built the release."

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCheckpoint:
    """Where a user has the checkpoint of a release.

    Attributes:
        folder: its directory; None for a release of a pinned model.
        tokenizer: a tokenizer.model, where the release was built with one.
    """

    folder: Path | None = None
    tokenizer: Path | None = None


def prepare_again(
    manifest: Manifest, own: OwnCheckpoint, what: str, schemes: tuple[Scheme, ...] = ()
) -> Prepared:
    """Return a plan for the checkpoint that a release was made from.

    Args:
        manifest: of the release.
        own: where the user has it, for a release of a checkpoint of somebody's own.
        what: what cannot be done without it, for messages.
        schemes: what is built of it; empty for the defaults.

    Raises:
        RequestError: the checkpoint is not at hand, or is another one.
        DriftError: it is that of a pinned model which has to be locked first.
    """
    record = manifest.checkpoint
    parameters = of_manifest(Parameters, manifest.parameters, "parameters", what)
    wanted = Request(
        name=record.model,
        schemes=schemes,
        prefill_seq_lens=parameters.prefill_seq_lens,
        kv_cache_max_len=parameters.kv_cache_max_len,
        mask_as_input=parameters.mask_as_input,
    )
    if record.source == LOCAL:
        if own.folder is None:
            why = "it was made from a checkpoint of somebody's own"
            raise RequestError(what, why, "Give the same directory: --checkpoint DIR")
        prepared = prepare(
            dataclasses.replace(wanted, checkpoint=own.folder, tokenizer=own.tokenizer)
        )
        assert isinstance(prepared.origin, LocalCheckpoint)  # noqa: S101 - of a directory
        refuse_other_files(prepared.origin.material.files, record.files, own.folder, what)
        return prepared
    lock = read_models_lock().models
    for name, locked in lock.items():
        if (locked.source, locked.revision) == (record.source, record.revision):
            if set(locked.files) - set(record.files) != set(record.fetched):
                why = f"its manifest names other files of {record.source} than the lock"
                raise RequestError(what, why, OTHER_VERSION)
            return prepare(dataclasses.replace(wanted, model=name))
    for name, model in load_models().items():  # a gated one, say, that nobody locked here
        if model.hub and (model.hub.repo, model.hub.revision) == (record.source, record.revision):
            refuse_drift(model_drift(name, model, lock.get(name)), f"gemma3build lock {name}")
    why = f"no pinned model comes from {record.source} at {record.revision}"
    raise RequestError(what, why, OTHER_VERSION)


def find_schemes(manifest: Manifest, what: str) -> tuple[Scheme, ...]:
    """Return the schemes of a release in full; raises RequestError."""
    return tuple(find_scheme(manifest, name, what) for name in sorted(manifest.schemes))


def find_scheme(manifest: Manifest, name: str, what: str) -> Scheme:
    """Return a scheme of a release; raises RequestError where its manifest has none of this name."""
    scheme = of_manifest(Scheme, manifest.schemes.get(name), f"schemes.{name}", what)
    if scheme.name != name:
        why = f"its manifest has {scheme.name!r} under the name {name!r}"
        raise RequestError(what, why, REBUILD)
    return scheme


def of_manifest(kind: type[T], value: object, where: str, what: str) -> T:
    """Return a part of a manifest; raises RequestError for one of another form."""
    try:
        return decode(kind, value, f"manifest.json: {where}")
    except DecodeError as error:
        raise RequestError(what, str(error), REBUILD) from error


def refuse_other_files(
    found: tuple[FileDigest, ...], expected: tuple[FileDigest, ...], folder: Path, what: str
) -> None:
    """Raise RequestError for a checkpoint that is not the manifest's, or has another tokenizer."""
    differing = {file.path for file in set(found) ^ set(expected)}
    if differing == {TOKENIZER}:
        why = f"it was built with another {TOKENIZER} than that of {folder}"
        raise RequestError(what, why, "Give the same one: --tokenizer FILE")
    if differing:
        why = f"{folder} is not the checkpoint that the manifest names"
        raise RequestError(what, why, "Give the directory that it was built from.")
