"""Take the known sources of difference out of a built image.

A builder stamps the clock on every file that it writes and on the image itself, and adds files in the
order in which a directory lists them. Here the layers above the parent are written again, sorted and
with one time, and the configuration is made anew from the few fields that containers need. Any
builder of any engine will do: two builds of one Dockerfile from one parent give one image id.
"""

import datetime
import hashlib
import json
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gemma3build.core.canonical import canonical_json
from gemma3build.core.digests import sha256_file

CONFIG_FIELDS = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")
COPY_SIZE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stabilized:
    """A stabilized image.

    Attributes:
        image_id: digest of its configuration, which is the image's id.
        layers: digests of its uncompressed layers, lowest first.
    """

    image_id: str
    layers: tuple[str, ...]


def stabilize_image(
    source: Path,
    target: Path,
    *,
    parent_layers: int,
    epoch: int,
    tag: str,
    labels: Mapping[str, str],
) -> Stabilized:
    """Write the image in the archive ``source`` again as the archive ``target``.

    Args:
        source: what ``docker save`` wrote.
        target: what ``docker load`` will read.
        parent_layers: how many layers stay as they are.
        epoch: the one time stamp, seconds since 1970 in UTC.
        tag: name of the new image.
        labels: labels of the new image, in place of the old.
    """
    scratch = target.parent / f"{target.name}.layers"
    scratch.mkdir()
    with tarfile.open(source) as archive:
        manifest = json.load(_member(archive, "manifest.json"))[0]
        config = json.load(_member(archive, manifest["Config"]))
        layers = []
        for index, name in enumerate(manifest["Layers"]):
            path = scratch / f"{index}.tar"
            with _member(archive, name) as layer, path.open("wb") as file:
                if index < parent_layers:
                    shutil.copyfileobj(layer, file, COPY_SIZE)
                else:
                    stabilize_layer(layer, file, epoch)
            layers.append(path)
    diff_ids = [f"sha256:{sha256_file(path)}" for path in layers]
    new_config = stable_config(config, diff_ids, epoch, labels)
    image_id = hashlib.sha256(new_config).hexdigest()
    _write_archive(target, image_id, new_config, layers, diff_ids, tag)
    shutil.rmtree(scratch)
    return Stabilized(image_id=f"sha256:{image_id}", layers=tuple(diff_ids))


def stabilize_layer(source: IO[bytes], target: IO[bytes], epoch: int) -> None:
    """Write a layer again: members sorted, hard links last, one time, no names of owners."""
    with (
        tarfile.open(fileobj=source) as layer,
        tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as stable,
    ):
        # A hard link must follow what it links to.
        for member in sorted(layer.getmembers(), key=lambda item: (item.islnk(), item.name)):
            member.mtime = epoch
            member.uname = member.gname = ""
            member.pax_headers = {}
            stable.addfile(member, layer.extractfile(member) if member.isreg() else None)


def stable_config(
    config: Mapping[str, Any], diff_ids: list[str], epoch: int, labels: Mapping[str, str]
) -> bytes:
    """Return an image configuration that holds nothing but what containers need."""
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


def _write_archive(
    target: Path, image_id: str, config: bytes, layers: list[Path], diff_ids: list[str], tag: str
) -> None:
    names = [f"{diff_id.removeprefix('sha256:')}/layer.tar" for diff_id in diff_ids]
    manifest = [{"Config": f"{image_id}.json", "Layers": names, "RepoTags": [tag]}]
    small = target.parent / f"{target.name}.small"
    with tarfile.open(target, "w") as archive:
        for name, content in (
            (f"{image_id}.json", config),
            ("manifest.json", canonical_json(manifest)),
        ):
            small.write_bytes(content)
            archive.add(small, name)
        # Two layers may be one: an empty one, say.
        for name, path in dict(zip(names, layers, strict=True)).items():
            archive.add(path, name)
    small.unlink()


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        message = f"{name} is not a file"
        raise tarfile.ReadError(message)
    return file
