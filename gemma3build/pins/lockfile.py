"""The lockfiles, written by a command, with the digests of everything that the config names; and drift.

A lockfile has no times and no download addresses, so everyone who resolves one config gets the same file, and
a diff shows what changed. It has drifted where it no longer matches the config.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gemma3build.errors import BuildError, ErrorCode, from_os_error
from gemma3build.pins.config import CONTAINERS_DIR, MODELS_LOCK, PINS_DIR, ModelConfig, model_dirs
from gemma3build.util.files import FileDigest, atomic_write, read_bounded, sha256_file
from gemma3build.util.serialize import Record, decode_json, pretty_json

IMAGES_LOCK = PINS_DIR / "images.lock.json"
BASE = "base"  # the image that all others are made from
DOCKERFILE = "Dockerfile"
REQUIREMENTS = "requirements.txt"  # of an image, every wheel with its hashes
REQUESTED = "requirements.in"  # what a person wants; REQUIREMENTS is locked from it
IMAGE_FILES = ("overrides.txt", REQUESTED, REQUIREMENTS)  # next to the Dockerfile that all share
PACKAGES = "packages"  # the source of a model that comes in wheels
COMMIT = re.compile(r"[0-9a-f]{40}")
SHOWN = 5  # fields that an error names

T = TypeVar("T")


class WheelPart(Record):
    """A piece of a GGUF file: a member of a wheel."""

    wheel: str
    member: str


class LockedModel(Record):
    """Where a model comes from, to the byte.

    Attributes:
        source: ``owner/name`` on the Hub, or ``packages``.
        revision: a commit on the Hub, or the digest of the GGUF file.
        requirements: packages that carry it, empty for the Hub.
        files: what is fetched: the checkpoint's files, or wheels.
        parts: members of the wheels, in order; empty for the Hub.
    """

    source: str
    revision: str
    requirements: tuple[str, ...] = ()
    files: tuple[FileDigest, ...]
    parts: tuple[WheelPart, ...] = ()


class ModelsLock(Record):
    """What models.lock.json says, by name of model."""

    models: Mapping[str, LockedModel]


class ImagesLock(Record):
    """What images.lock.json says: image to file name to SHA-256."""

    images: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One field that differs."""

    field: str
    config: str
    locked: str

    def __str__(self) -> str:
        """Return the line that people read."""
        return f"{self.field} is {self.config}, the lock says {self.locked}"


def read_models_lock(*paths: Path) -> ModelsLock:
    """Return locks of models as one, of which a later one overrides those before it.

    Args:
        paths: the files, which need not be there; without any, all that are in force.

    Raises:
        BuildError: one cannot be read, or has another form (CONFIG).
    """
    locks = [
        _read(ModelsLock, path) or ModelsLock(models={})
        for path in paths or [folder / MODELS_LOCK.name for folder in model_dirs()]
    ]
    return ModelsLock(models={name: model for lock in locks for name, model in lock.models.items()})


def read_images_lock(path: Path = IMAGES_LOCK) -> ImagesLock:
    """Return the lock of images; raises BuildError (CONFIG)."""
    return _read(ImagesLock, path) or ImagesLock(images={})


def write_models_lock(models: Mapping[str, LockedModel]) -> Path:
    """Write the lock of models that is not part of an installed package; return where it is.

    A user's own says nothing of a model whose lock in the package is the same.

    Raises:
        BuildError: the lock in the package cannot be read (CONFIG); the disk is full (DISK); the
            lock cannot be written (OUTPUT).
    """
    *shipped, path = (folder / MODELS_LOCK.name for folder in model_dirs())
    known = read_models_lock(*shipped).models if shipped else {}
    own = {name: model for name, model in models.items() if known.get(name) != model}
    write_lock(ModelsLock(models=own), path)
    return path


def write_lock(lock: ModelsLock | ImagesLock, path: Path) -> None:
    """Write a lock whole or not at all, and its directory; raises BuildError (DISK, OUTPUT)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, pretty_json(lock))
    except OSError as error:
        raise from_os_error("The lockfile cannot be written", error) from error


def image_names() -> tuple[str, ...]:
    """Return the names of all images, ``base`` first."""
    names = sorted(path.parent.name for path in CONTAINERS_DIR.glob(f"*/{REQUIREMENTS}"))
    return (BASE, *names)


def image_files(name: str) -> dict[str, Path]:
    """Return the files that an image is made from, by the names that they have when it is built."""
    if name == BASE:
        return {DOCKERFILE: CONTAINERS_DIR / f"{BASE}.{DOCKERFILE}"}
    own = {file: CONTAINERS_DIR / name / file for file in IMAGE_FILES}
    return {
        DOCKERFILE: CONTAINERS_DIR / DOCKERFILE,
        **{file: path for file, path in own.items() if path.is_file()},
    }


def current_images() -> ImagesLock:
    """Return what a lock of the images would say now; raises OSError."""
    return ImagesLock(
        images={
            name: {file: sha256_file(path) for file, path in image_files(name).items()}
            for name in image_names()
        }
    )


def model_drift(name: str, model: ModelConfig, locked: LockedModel | None) -> tuple[Drift, ...]:
    """Return the fields in which a model and its lock differ."""
    if locked is None:
        return (Drift(field=name, config="in models.toml", locked="nothing about it"),)
    if model.hub is not None:
        config = {"source": model.hub.repo}
        if COMMIT.fullmatch(model.hub.revision):  # else a branch or tag, which may have moved
            config["revision"] = model.hub.revision
        config |= {f"files.{path}": digest for path, digest in model.hub.sha256.items()}
    elif model.packages is not None:
        config = {"source": PACKAGES, "revision": model.packages.gguf_sha256}
        config["requirements"] = ", ".join(model.packages.requirements)
    found = _fields(locked)
    return tuple(
        Drift(field=f"{name}.{field}", config=value, locked=found.get(field, "nothing"))
        for field, value in config.items()
        if found.get(field) != value
    )


def lock_drift(name: str, new: LockedModel, old: LockedModel | None) -> tuple[Drift, ...]:
    """Return the fields in which the lock that is about to be written differs from the one there."""
    now, then = _fields(new), _fields(old) if old else {}
    return tuple(
        Drift(
            field=f"{name}.{field}",
            config=now.get(field, "gone"),
            locked=then.get(field, "nothing"),
        )
        for field in {**now, **then}
        if now.get(field) != then.get(field)
    )


def images_drift(current: ImagesLock, locked: ImagesLock) -> tuple[Drift, ...]:
    """Return the files of images whose content is not what the lock says."""
    names = sorted({*current.images, *locked.images})
    return tuple(
        Drift(field=f"image {name}: {file}", config=now, locked=then)
        for name in names
        for file in sorted({*current.images.get(name, {}), *locked.images.get(name, {})})
        if (now := current.images.get(name, {}).get(file, "nothing"))
        != (then := locked.images.get(name, {}).get(file, "nothing"))
    )


def refuse_drift(drift: tuple[Drift, ...], command: str) -> None:
    """Raise BuildError (DRIFT) for any drift, with the command that removes it."""
    if drift:
        shown = [*map(str, drift[:SHOWN])]
        if more := drift[SHOWN:]:
            shown.append(f"and {len(more)} more")
        raise BuildError(
            ErrorCode.DRIFT,
            "The pins have drifted",
            "; ".join(shown),
            f"Run `{command}`, review the diff and commit it.",
        )


def _fields(locked: LockedModel) -> dict[str, str]:
    """Return what a lock says, field by field; empty ones are left out."""
    found = {
        "source": locked.source,
        "revision": locked.revision,
        "requirements": ", ".join(locked.requirements),
        **{f"files.{file.path}": file.sha256 for file in locked.files},
    }
    return {field: value for field, value in found.items() if value}


def _read(kind: type[T], path: Path) -> T | None:
    """Return a lock; None where there is none."""
    try:
        return decode_json(kind, read_bounded(path), path.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        hint = "Restore the file, or run `gemma3build lock`."
        raise BuildError(ErrorCode.CONFIG, "A lockfile cannot be read", str(error), hint) from error
