"""The files that only a command writes: digests of everything that intent names.

A lock holds no clock time and no download address, so that two people who resolve one intent get one
lock, and a reviewer sees in a diff what changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma3build.core.canonical import pretty_json
from gemma3build.core.codec import decode_json, encode
from gemma3build.core.digests import FileDigest, sha256_file
from gemma3build.core.small import read_small
from gemma3build.core.whole import write_whole
from gemma3build.errors import ConfigError, NoCheckoutError, from_os_error
from gemma3build.pins.intent import CONTAINERS_DIR, PINS_DIR

MODELS_LOCK = PINS_DIR / "models.lock.json"
IMAGES_LOCK = PINS_DIR / "images.lock.json"
# What an image's digest in the lock covers, where the image has it.
IMAGE_FILES = ("Dockerfile", "overrides.txt", "requirements.in", "requirements.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a GGUF file: a member of a wheel."""

    wheel: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedModel:
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
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsLock:
    """What models.lock.json says, by name of model."""

    models: Mapping[str, LockedModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesLock:
    """What images.lock.json says: image to file name to SHA-256."""

    images: Mapping[str, Mapping[str, str]]


def read_models_lock(path: Path = MODELS_LOCK) -> ModelsLock:
    """Return the lock of models; raises ConfigError."""
    try:
        return decode_json(ModelsLock, read_small(path), path.name)
    except FileNotFoundError:
        return ModelsLock(models={})
    except ValueError as error:
        raise _damaged(error) from error


def read_images_lock(path: Path = IMAGES_LOCK) -> ImagesLock:
    """Return the lock of images; raises ConfigError."""
    try:
        return decode_json(ImagesLock, read_small(path), path.name)
    except FileNotFoundError:
        return ImagesLock(images={})
    except ValueError as error:
        raise _damaged(error) from error


def write_lock(lock: ModelsLock | ImagesLock, path: Path) -> None:
    """Write a lock whole or not at all; raises OutputError, NoSpaceError."""
    try:
        write_whole(path, pretty_json(encode(lock)))
    except OSError as error:
        raise from_os_error("The lock cannot be written", error) from error


def image_names(containers: Path = CONTAINERS_DIR) -> tuple[str, ...]:
    """Return the names of all images, ``base`` first."""
    names = sorted(path.parent.name for path in containers.glob("*/Dockerfile"))
    return tuple(sorted(names, key=lambda name: name != "base"))


def current_images(containers: Path = CONTAINERS_DIR) -> ImagesLock:
    """Return what a lock of the images would say now.

    Raises:
        NoCheckoutError: there is nothing to make images from.
    """
    if not image_names(containers):
        raise NoCheckoutError(
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


def _damaged(error: ValueError) -> ConfigError:
    hint = "Restore the file, or run `gemma3build lock`."
    return ConfigError("A lock cannot be read", str(error), hint)
