"""Images as files: stabilized between ``docker save`` and ``docker load``, and kept in a directory.

A builder writes the current time into files and the image, and adds files in the order of a directory
listing. gemma3build merges the layers above the parent into one, sorted and with one time stamp, without
files that the build removed again and directories that equal the parent's. The new configuration has only the
fields that containers need. So two builds of one Dockerfile from one parent have one image id, by any engine.
"""

import contextlib
import datetime
import gzip
import io
import json
import posixpath
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import docker

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.util.files import sha256_bytes, sha256_file
from gemma3build.util.serialize import canonical_json

MANIFEST = "manifest.json"  # of an archive: names its configuration and layers
CONFIG = "config.json"  # of a directory with an image
CONFIG_FIELDS = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")
# Marks a file of a lower layer as removed: OCI image specification, layer.md.
WHITEOUT = ".wh."
GZIP_MAGIC = b"\x1f\x8b"

Members = dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]]


def save_image(client: docker.DockerClient, image: str, path: Path) -> None:
    """Write an image of the engine to an archive; raises DockerException, OSError."""
    with path.open("wb") as file:
        for block in client.api.get_image(image):
            file.write(block)


def stabilize_image(
    source: Path,
    target: Path,
    *,
    parent_layers: int,
    epoch: int,
    tag: str,
    labels: Mapping[str, str],
) -> None:
    """Write the image in the archive ``source`` to the archive ``target``, stabilized.

    Args:
        source: written by ``docker save``.
        target: for ``docker load``.
        parent_layers: number of layers that stay unchanged.
        epoch: time stamp of all files, seconds since 1970 in UTC.
        tag: name of the new image.
        labels: of the new image, instead of the old ones.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, tarfile.open(source) as archive:
        (manifest,) = json.load(_member_file(archive, MANIFEST))
        config = json.load(_member_file(archive, manifest["Config"]))
        names = manifest["Layers"]
        layers = [_layer_file(Path(scratch), number) for number in range(parent_layers + 1)]
        for name, path in zip(names[:parent_layers], layers, strict=False):
            _copy_layer(archive, name, path)
        with contextlib.ExitStack() as stack:
            parents = [stack.enter_context(path.open("rb")) for path in layers[:-1]]
            own = [_member_file(archive, name) for name in names[parent_layers:]]
            merge_layers(parents, own, stack.enter_context(layers[-1].open("wb")), epoch)
        diff_ids = [f"sha256:{sha256_file(path)}" for path in layers]
        _write_image(target, stable_config(config, diff_ids, epoch, labels), layers, diff_ids, tag)


def export_image(client: docker.DockerClient, tag: str, folder: Path) -> None:
    """Write an image to a directory: ``config.json``, and ``00.tar`` for its lowest layer; raises as above."""
    saved = folder / "saved.tar"
    save_image(client, tag, saved)
    with tarfile.open(saved) as archive:
        (manifest,) = json.load(_member_file(archive, MANIFEST))
        (folder / CONFIG).write_bytes(_member_file(archive, manifest["Config"]).read())
        for number, name in enumerate(manifest["Layers"]):
            _copy_layer(archive, name, _layer_file(folder, number))
    saved.unlink()


def import_image(client: docker.DockerClient, folder: Path, tag: str, scratch: Path) -> None:
    """Load an image from a directory that ``export_image`` wrote.

    Args:
        client: the engine.
        folder: contains the files.
        tag: name of the image.
        scratch: a directory for a file as large as the image.

    Raises:
        BuildError: a layer is not the one in the configuration (IMAGE).
        DockerException: the engine failed.
        OSError: a file cannot be read or written.
    """
    config = (folder / CONFIG).read_bytes()
    try:
        diff_ids = [str(digest) for digest in json.loads(config)["rootfs"]["diff_ids"]]
    except (ValueError, LookupError, TypeError) as error:
        why = f"{CONFIG} names no layers: {error}"
        raise BuildError(ErrorCode.IMAGE, "The archived image cannot be loaded", why) from error
    layers = [_layer_file(folder, number) for number in range(len(diff_ids))]
    for path, diff_id in zip(layers, diff_ids, strict=True):
        if f"sha256:{sha256_file(path)}" != diff_id:
            why = f"{path.name} is not the layer that {CONFIG} names"
            raise BuildError(ErrorCode.IMAGE, "The archived image cannot be loaded", why)
    target = scratch / "image.tar"
    _write_image(target, config, layers, diff_ids, tag)
    with target.open("rb") as file:
        client.images.load(file)
    target.unlink()


def merge_layers(
    parents: Sequence[IO[bytes]], sources: Sequence[IO[bytes]], target: IO[bytes], epoch: int
) -> None:
    """Merge layers into one, without removed files, time stamps, owners' names and the order of members.

    Args:
        parents: uncompressed layers below these, lowest first.
        sources: uncompressed or compressed layers, lowest first.
        target: receives the merged layer, uncompressed.
        epoch: time stamp of all files, seconds since 1970 in UTC.
    """
    with contextlib.ExitStack() as stack:
        found = _members(sources, stack)
        _drop_unchanged(found, _members(parents, stack))
        stable = stack.enter_context(
            tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT)
        )
        for layer, member in sorted(found.values(), key=lambda pair: _order(pair[1])):
            member.mtime = epoch
            member.uname = member.gname = ""
            member.pax_headers = {}
            stable.addfile(member, layer.extractfile(member) if member.isreg() else None)


def _members(layers: Sequence[IO[bytes]], stack: contextlib.ExitStack) -> Members:
    """Return the members of layers that no later one removed or replaced, by name."""
    found: Members = {}
    for source in layers:
        layer = stack.enter_context(tarfile.open(fileobj=source))  # noqa: SIM115 - the stack closes it
        for member in layer.getmembers():
            member.name = posixpath.normpath(member.name)  # some begin with ./
            folder, name = posixpath.split(member.name)
            if name.startswith(WHITEOUT):
                gone = posixpath.join(folder, name.removeprefix(WHITEOUT))
                for path in [path for path in found if f"{path}/".startswith(f"{gone}/")]:
                    del found[path]
            found[member.name] = layer, member
    return found


def _drop_unchanged(found: Members, below: Members) -> None:
    """Remove directories that equal the parent's and have no members in the layer.

    While a command runs, BuildKit mounts files over some of the parent's, which changes their directory; the
    classic builder does not. A directory with members stays: an engine that unpacks a layer without it would
    choose a mode for it.
    """
    holding = set()
    for name in sorted(found, reverse=True):  # members of a directory come before it
        member = found[name][1]
        known = below.get(name)
        same = known is not None and _nature(known[1]) == _nature(member)
        if member.isdir() and same and name not in holding:
            del found[name]
        else:
            holding.add(posixpath.dirname(name))


def _nature(member: tarfile.TarInfo) -> tuple[bytes, int, int, int]:
    # Docker writes the file type into the mode, too.
    return member.type, stat.S_IMODE(member.mode), member.uid, member.gid


def _order(member: tarfile.TarInfo) -> tuple[bool, str]:
    # A hard link must follow what it links to.
    return member.islnk(), member.name


def stable_config(
    config: Mapping[str, Any], diff_ids: list[str], epoch: int, labels: Mapping[str, str]
) -> bytes:
    """Return an image configuration with only the fields that containers need."""
    created = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = config.get("config") or {}
    kept = {name: old[name] for name in CONFIG_FIELDS if old.get(name)}
    return canonical_json(
        {
            "architecture": config["architecture"],
            "config": {**kept, "Labels": dict(labels)},
            "created": created,
            "history": [{"created": created} for _ in diff_ids],
            "os": config["os"],
            "rootfs": {"diff_ids": diff_ids, "type": "layers"},
        }
    )


def _write_image(
    target: Path, config: bytes, layers: list[Path], diff_ids: list[str], tag: str
) -> None:
    """Write a configuration and uncompressed layers, lowest first, as an archive for ``docker load``."""
    config_name = f"{sha256_bytes(config)}.json"
    names = [f"{diff_id.removeprefix('sha256:')}/layer.tar" for diff_id in diff_ids]
    manifest = [{"Config": config_name, "Layers": names, "RepoTags": [tag]}]
    with tarfile.open(target, "w") as archive:
        for name, content in ((config_name, config), (MANIFEST, canonical_json(manifest))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        # Two layers may be the same, such as two empty ones.
        for name, path in dict(zip(names, layers, strict=True)).items():
            archive.add(path, name)


def _copy_layer(archive: tarfile.TarFile, name: str, path: Path) -> None:
    """Write a layer of an archive to a file, uncompressed."""
    # Engines with the containerd store keep layers as the registry sent them.
    layer = _member_file(archive, name)
    compressed = layer.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    layer.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(gzip.GzipFile(fileobj=layer) if compressed else layer, file)


def _member_file(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """Return a file in an archive; raises ReadError for anything else."""
    file = archive.extractfile(name)
    if file is None:
        message = f"{name} is not a file"
        raise tarfile.ReadError(message)
    return file


def _layer_file(folder: Path, number: int) -> Path:
    """Return the file of a layer, counted from the lowest."""
    return folder / f"{number:02}.tar"
