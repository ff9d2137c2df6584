"""The files that only a command writes: digests of everything that intent names.

A lock holds no clock time and no download address, so that two people who resolve one intent get one
lock, and a reviewer sees in a diff what changed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma3build.errors import BuildError, ErrorCode, from_os_error
from gemma3build.pins.config import CONTAINERS_DIR, PINS_DIR, ModelConfig
from gemma3build.util.files import FileDigest, atomic_write, read_bounded, sha256_file
from gemma3build.util.serialize import Record, decode_json, pretty_json

MODELS_LOCK = PINS_DIR / "models.lock.json"
IMAGES_LOCK = PINS_DIR / "images.lock.json"
# What an image's digest in the lock covers, where the image has it.
IMAGE_FILES = ("Dockerfile", "overrides.txt", "requirements.in", "requirements.txt")


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


def read_models_lock(path: Path = MODELS_LOCK) -> ModelsLock:
    """Return the lock of models; raises BuildError (CONFIG)."""
    try:
        return decode_json(ModelsLock, read_bounded(path), path.name)
    except FileNotFoundError:
        return ModelsLock(models={})
    except ValueError as error:
        raise _damaged(error) from error


def read_images_lock(path: Path = IMAGES_LOCK) -> ImagesLock:
    """Return the lock of images; raises BuildError (CONFIG)."""
    try:
        return decode_json(ImagesLock, read_bounded(path), path.name)
    except FileNotFoundError:
        return ImagesLock(images={})
    except ValueError as error:
        raise _damaged(error) from error


def write_lock(lock: ModelsLock | ImagesLock, path: Path) -> None:
    """Write a lock whole or not at all; raises BuildError."""
    try:
        atomic_write(path, pretty_json(lock))
    except OSError as error:
        raise from_os_error("The lock cannot be written", error) from error


def image_names(containers: Path = CONTAINERS_DIR) -> tuple[str, ...]:
    """Return the names of all images, ``base`` first."""
    names = sorted(path.parent.name for path in containers.glob("*/Dockerfile"))
    return tuple(sorted(names, key=lambda name: name != "base"))


def current_images(containers: Path = CONTAINERS_DIR) -> ImagesLock:
    """Return what a lock of the images would say now.

    Raises:
        BuildError: there is nothing to make images from (NO_CHECKOUT).
    """
    if not image_names(containers):
        raise BuildError(
            ErrorCode.NO_CHECKOUT,
            "Images cannot be made",
            f"{containers} is not there, and no wheel of this project has it",
            "Run from a checkout: clone the project, then `python -m pip install -e .` in it.",
        )
    return ImagesLock(
        images={
            name: {
                file: sha256_file(containers / name / file)
                for file in IMAGE_FILES
                if (containers / name / file).is_file()
            }
            for name in image_names(containers)
        }
    )


def _damaged(error: ValueError) -> BuildError:
    hint = "Restore the file, or run `gemma3build lock`."
    return BuildError(ErrorCode.CONFIG, "A lock cannot be read", str(error), hint)


PACKAGES = "packages"
SHOWN = 5  # fields that an error names
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One field that differs."""

    field: str
    config: str
    locked: str

    def __str__(self) -> str:
        """Return the line that people read."""
        return f"{self.field} is {self.config}, the lock says {self.locked}"


def model_drift(name: str, model: ModelConfig, locked: LockedModel | None) -> tuple[Drift, ...]:
    """Return the fields in which a model and its lock differ."""
    if locked is None:
        return (Drift(field=name, config="in models.toml", locked="nothing about it"),)
    if model.hub is not None:
        wanted = {"source": model.hub.repo}
        if COMMIT.fullmatch(
            model.hub.revision
        ):  # a branch or tag is what it was when it was locked
            wanted["revision"] = model.hub.revision
        wanted |= {f"files.{path}": digest for path, digest in model.hub.sha256.items()}
    elif model.packages is not None:
        wanted = {"source": PACKAGES, "revision": model.packages.gguf_sha256}
        wanted["requirements"] = ", ".join(model.packages.requirements)
    found = fields(locked)
    return tuple(
        Drift(field=f"{name}.{field}", config=value, locked=found.get(field, "nothing"))
        for field, value in wanted.items()
        if found.get(field) != value
    )


def lock_drift(name: str, new: LockedModel, old: LockedModel | None) -> tuple[Drift, ...]:
    """Return the fields in which the lock that is about to be written differs from the one there."""
    now, then = fields(new), fields(old) if old else {}
    return tuple(
        Drift(
            field=f"{name}.{field}",
            config=now.get(field, "gone"),
            locked=then.get(field, "nothing"),
        )
        for field in {**now, **then}
        if now.get(field) != then.get(field)
    )


def fields(locked: LockedModel) -> dict[str, str]:
    """Return what a lock says, field by field; empty ones are left out."""
    found = {
        "source": locked.source,
        "revision": locked.revision,
        "requirements": ", ".join(locked.requirements),
        **{f"files.{file.path}": file.sha256 for file in locked.files},
    }
    return {field: value for field, value in found.items() if value}


def images_drift(current: ImagesLock, locked: ImagesLock) -> tuple[Drift, ...]:
    """Return the files of images whose content is not what the lock says."""
    names = sorted(set(current.images) | set(locked.images))
    return tuple(
        Drift(field=f"containers/{name}/{file}", config=now, locked=then)
        for name in names
        for file in sorted({*current.images.get(name, {}), *locked.images.get(name, {})})
        if (now := current.images.get(name, {}).get(file, "nothing"))
        != (then := locked.images.get(name, {}).get(file, "nothing"))
    )


def refuse_drift(drift: tuple[Drift, ...], command: str) -> None:
    """Raise for any drift, with the command that mends it.

    Raises:
        BuildError: there is some (DRIFT).
    """
    if drift:
        shown = [*map(str, drift[:SHOWN])]
        if more := drift[SHOWN:]:
            shown.append(f"and {len(more)} more")
        raise BuildError(
            ErrorCode.DRIFT,
            "The pins have drifted",
            "; ".join(shown),
            f"Run `{command}`, look at the difference, and commit it.",
        )
