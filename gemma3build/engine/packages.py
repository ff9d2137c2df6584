"""What an image is made of: its wheels, and Debian's packages in its base."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from gemma3build.core.canonical import pretty_json
from gemma3build.core.codec import DecodeError, decode_json, encode
from gemma3build.core.digests import FileDigest
from gemma3build.engine.images import Image
from gemma3build.engine.store import IMAGES, Store
from gemma3build.errors import EngineError

STATUS = "/var/lib/dpkg/status"
INSTALLED = "install ok installed"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DebianPackage:
    """A package as dpkg has it."""

    name: str
    version: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """What an image is made of.

    Attributes:
        wheels: the files that were installed, ordered by name.
        debian: packages of its base, ordered by name.
    """

    wheels: tuple[FileDigest, ...]
    debian: tuple[DebianPackage, ...]


def image_packages(client: docker.DockerClient, store: Store, image: Image) -> Packages:
    """Return what an image is made of; asked once for each image, then kept in the store.

    Args:
        client: the engine that has the image.
        store: where the answer is kept.
        image: which.

    Raises:
        EngineError: the image cannot be read.
    """
    kept = store.root / IMAGES / f"{image.digest}.packages.json"
    try:
        return decode_json(Packages, kept.read_bytes(), kept.name)
    except (OSError, DecodeError):
        pass
    found = Packages(
        wheels=image.wheels,
        debian=tuple(sorted(read_status(status_file(client, image)))),
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(".tmp")
    temporary.write_bytes(pretty_json(encode(found)))
    temporary.replace(kept)
    return found


def status_file(client: docker.DockerClient, image: Image) -> str:
    """Return dpkg's list of packages from an image, which is not run for it."""
    try:
        container = client.containers.create(image.image_id, ["true"], network_mode="none")
        try:
            blocks, _ = container.get_archive(STATUS)
            content = b"".join(blocks)
        finally:
            container.remove(force=True)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            file = archive.extractfile(Path(STATUS).name)
            return file.read().decode() if file else ""
    except (DockerException, tarfile.TarError, KeyError) as error:
        what = f"The packages of the image {image.name} cannot be read"
        raise EngineError(what, str(error), "Remove the image and run the same again.") from error


def read_status(text: str) -> Iterator[DebianPackage]:
    """Yield the installed packages of dpkg's status file: deb822, a paragraph for each."""
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if line[:1].isalpha() and ": " in line
        )
        if fields.get("Status") == INSTALLED:
            yield DebianPackage(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
            )
