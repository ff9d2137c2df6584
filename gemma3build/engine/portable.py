"""An image as files that no engine changes: its configuration, and its layers as they were."""

import json
import shutil
import tarfile
from pathlib import Path

import docker

from gemma3build.core.digests import sha256_file
from gemma3build.engine.stabilize import member_file, uncompressed, write_image
from gemma3build.errors import ImageError

CONFIG = "config.json"
COPY_SIZE = 1 << 20


def export_image(client: docker.DockerClient, tag: str, folder: Path) -> None:
    """Write an image of the engine to a directory: ``config.json``, and ``00.tar`` for its lowest layer.

    Raises:
        DockerException: the engine failed.
        OSError: the files cannot be written.
    """
    saved = folder / "saved.tar"
    with saved.open("wb") as file:
        for block in client.api.get_image(tag):
            file.write(block)
    with tarfile.open(saved) as archive:
        (manifest,) = json.load(member_file(archive, "manifest.json"))
        with member_file(archive, manifest["Config"]) as config:
            (folder / CONFIG).write_bytes(config.read())
        for number, name in enumerate(manifest["Layers"]):
            with layer_file(folder, number).open("wb") as file:
                shutil.copyfileobj(uncompressed(member_file(archive, name)), file, COPY_SIZE)
    saved.unlink()


def import_image(client: docker.DockerClient, folder: Path, tag: str, scratch: Path) -> None:
    """Load an image from a directory that ``export_image`` wrote.

    Args:
        client: the engine.
        folder: with the files.
        tag: name of the image.
        scratch: a directory for a file as large as the image.

    Raises:
        ImageError: a layer is not the one of the configuration.
        DockerException: the engine failed.
        OSError: a file cannot be read or written.
    """
    config = (folder / CONFIG).read_bytes()
    try:
        digests = [str(digest) for digest in json.loads(config)["rootfs"]["diff_ids"]]
    except (ValueError, LookupError, TypeError) as error:
        why = f"{CONFIG} names no layers: {error}"
        raise ImageError("The archived image cannot be loaded", why, "") from error
    layers = [layer_file(folder, number) for number in range(len(digests))]
    for path, digest in zip(layers, digests, strict=True):
        if f"sha256:{sha256_file(path)}" != digest:
            why = f"{path.name} is not the layer that {CONFIG} names"
            raise ImageError("The archived image cannot be loaded", why, "")
    target = scratch / "image.tar"
    write_image(target, config, layers, digests, tag)
    with target.open("rb") as file:
        client.images.load(file)
    target.unlink()


def layer_file(folder: Path, number: int) -> Path:
    """Return where a layer lies, counted from the lowest."""
    return folder / f"{number:02}.tar"
