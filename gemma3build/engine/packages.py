"""What an image is made of: its wheels, and Debian's packages in its base."""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping

import docker
from docker.errors import DockerException
from requests import RequestException

from gemma3build.engine.cache import IMAGES, Cache
from gemma3build.engine.images import Image
from gemma3build.errors import BuildError, ErrorCode, from_os_error
from gemma3build.schema.packages import DebianPackage, Packages
from gemma3build.util.files import atomic_write
from gemma3build.util.serialize import DecodeError, decode_json, pretty_json
from gemma3build.util.text import MEBIBYTE

STATUS = "/var/lib/dpkg/status"
LARGEST_STATUS = 64 * MEBIBYTE  # a base has some 100 KiB
# Names and versions of packages: Debian Policy 5.6.7 and 5.6.12. Architectures: deb-src-control(5).
FIELDS = {
    "Package": re.compile(r"[a-z0-9][a-z0-9+.-]+"),
    "Version": re.compile(r"(?:[0-9]+:)?[0-9][A-Za-z0-9.+~-]*"),
    "Architecture": re.compile(r"[a-z0-9][a-z0-9-]*"),
    # What dpkg was asked for, whether it failed, what it did: dpkg(1).
    "Status": re.compile(r"(?:unknown|install|hold|deinstall|purge) (?:ok|reinstreq) [a-z-]+"),
}
INSTALLED = " installed"
SHOWN = 80  # characters of a line in a message


def image_packages(client: docker.DockerClient, cache: Cache, image: Image) -> Packages:
    """Return what an image is made of; asked once for each image, then kept in the store.

    Args:
        client: the engine that has the image.
        cache: where the answer is kept.
        image: which.

    Raises:
        BuildError: the image cannot be read (ENGINE); the disk is full (DISK); the store cannot be
            written (OUTPUT).
    """
    kept = cache.root / IMAGES / f"{image.digest}.packages.json"
    try:
        return decode_json(Packages, kept.read_bytes(), kept.name)
    except (OSError, DecodeError):
        pass
    what = f"The packages of the image {image.name} cannot be read"
    try:
        debian = tuple(sorted(read_status(status_file(client, image))))
    except (DockerException, RequestException, tarfile.TarError, ValueError) as error:
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


def status_file(client: docker.DockerClient, image: Image) -> str:
    """Return dpkg's list of packages from an image, which is not run for it.

    Raises:
        DockerException: the engine has no such image, or the image no such file.
        RequestException: the engine went away.
        TarError: the engine's answer is no archive.
        ValueError: what the engine brings is no list of packages.
    """
    container = client.containers.create(image.image_id, ["true"], network_mode="none")
    try:
        blocks, _ = container.get_archive(STATUS)
        content = bounded(blocks)
    finally:
        container.remove(force=True)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            message = f"{STATUS} is not a plain file"
            raise ValueError(message)
        return file.read().decode()


def bounded(blocks: Iterable[bytes]) -> bytes:
    """Return blocks in one piece; raises ValueError where they are more than any list of packages."""
    found = bytearray()
    for block in blocks:
        found += block
        if len(found) > LARGEST_STATUS:
            message = f"{STATUS} has more than {LARGEST_STATUS // MEBIBYTE} MiB"
            raise ValueError(message)
    return bytes(found)


def read_status(text: str) -> Iterator[DebianPackage]:
    """Yield the installed packages of dpkg's status file: deb822(5), a paragraph for each.

    Raises:
        ValueError: it is not as dpkg writes it, or names no installed package.
    """
    count = 0
    for paragraph in re.split(r"\n{2,}", text.strip("\n")):
        fields = read_paragraph(paragraph)
        if value(fields, "Status").endswith(INSTALLED):  # others may have no version
            count += 1
            yield DebianPackage(
                name=value(fields, "Package"),
                version=value(fields, "Version"),
                architecture=value(fields, "Architecture"),
            )
    if not count:
        message = f"{STATUS} names no installed package"
        raise ValueError(message)


def read_paragraph(paragraph: str) -> dict[str, str]:
    """Return the fields of a paragraph, the first line of each; raises ValueError."""
    found: dict[str, str] = {}
    for line in paragraph.split("\n"):
        if line.startswith((" ", "\t")):  # goes on with the field above
            continue
        name, colon, text = line.partition(":")
        if not colon or name in found:
            message = f"{STATUS} has the line {line[:SHOWN]!r}, which is no field, or one twice"
            raise ValueError(message)
        found[name] = text.strip()
    return found


def value(fields: Mapping[str, str], name: str) -> str:
    """Return a field, which must have its form; raises ValueError."""
    found = fields.get(name, "")
    if not FIELDS[name].fullmatch(found):
        message = f"{STATUS} has a package with the {name} {found[:SHOWN]!r}"
        raise ValueError(message)
    return found
