"""The packages of an image: its wheels, and the Debian packages of its base."""

import os

import docker
from docker.errors import DockerException
from requests import RequestException

from gemma3build.engine.cache import IMAGES, Cache
from gemma3build.engine.images import Image
from gemma3build.errors import BuildError, ErrorCode, from_os_error
from gemma3build.schema.packages import DebianPackage, Packages
from gemma3build.util.files import atomic_write
from gemma3build.util.serialize import DecodeError, decode_json, pretty_json

# One line for each package that dpkg knows; of some only the configuration is left: dpkg-query(1).
DPKG_QUERY = (
    "dpkg-query",
    "--show",
    "--showformat=${db:Status-Status} ${Package} ${Version} ${Architecture}\n",
)


def image_packages(client: docker.DockerClient, cache: Cache, image: Image) -> Packages:
    """Return the packages of an image, read once for each image and then kept in the cache.

    Raises:
        BuildError: the image cannot be read (ENGINE); the disk is full (DISK); the cache cannot be
            written (OUTPUT).
    """
    kept = cache.root / IMAGES / f"{image.digest}.packages.json"
    try:
        return decode_json(Packages, kept.read_bytes(), kept.name)
    except (OSError, DecodeError):
        pass
    try:
        debian = _installed_packages(_query(client, image))
    except (DockerException, RequestException, ValueError) as error:
        what = f"The packages of the image {image.name} cannot be read"
        hint = "Remove the image and run the same command again."
        raise BuildError(ErrorCode.ENGINE, what, str(error), hint) from error
    found = Packages(wheels=image.wheels, debian=debian)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, pretty_json(found))
    except OSError as error:
        what = f"The packages of the image {image.name} cannot be kept"
        raise from_os_error(what, error) from error
    return found


def _query(client: docker.DockerClient, image: Image) -> bytes:
    """Return the output of dpkg-query in a container of the image; raises ValueError if it fails."""
    container = client.containers.create(
        image.image_id,
        list(DPKG_QUERY),
        cap_drop=["ALL"],
        network_mode="none",
        read_only=True,
        security_opt=["no-new-privileges"],
        user=f"{os.getuid()}:{os.getgid()}",
    )
    try:
        container.start()
        status = container.wait()["StatusCode"]
        answer: bytes = container.logs(stderr=False)
    finally:
        container.remove(force=True)
    if status:
        message = f"{DPKG_QUERY[0]} ended with the exit status {status}"
        raise ValueError(message)
    return answer


def _installed_packages(answer: bytes) -> tuple[DebianPackage, ...]:
    """Return the installed packages, ordered; raises ValueError if there are none."""
    lines = [line.split(" ") for line in answer.decode().splitlines()]
    found = [
        DebianPackage(name=name, version=version, architecture=architecture)
        for status, name, version, architecture in lines
        if status == "installed"
    ]
    if not found:
        message = "dpkg names no installed package"
        raise ValueError(message)
    return tuple(sorted(found))
