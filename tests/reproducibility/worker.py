"""The command, with containers and images that differ from what it would make.

worker.py CHANGES ARGUMENT… runs `gemma3build ARGUMENT…`. CHANGES is a JSON object:

    environment  variables set in every container, over what the images and the engine set
    cpus         the cores that containers may use, such as "0"
    network      the network of every container, such as "bridge"
    preload      a library of the host that every container loads first
    epoch        seconds: SOURCE_DATE_EPOCH with which images are made, the base from Debian's packages too
    buildkit     true builds images by BuildKit; they then have other keys

The command has no such options, because a user must not be able to change what a release depends on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from docker.models.containers import ContainerCollection
from docker.types import Mount
from msgspec import structs

from gemma3build.cli import app as cli
from gemma3build.engine import images
from gemma3build.pins.config import ImagesConfig


def change_containers(changes: Mapping[str, Any]) -> None:
    """Give every container that is created another environment, other cores, another network."""
    create = ContainerCollection.create

    def changed(self: ContainerCollection, image: str, command: Any = None, **options: Any) -> Any:
        options["environment"] = {**options.get("environment", {}), **changes["environment"]}
        if "cpus" in changes:
            options["cpuset_cpus"] = changes["cpus"]
        if "network" in changes:
            options["network_mode"] = changes["network"]
        if "preload" in changes:
            mount = Mount(changes["preload"], changes["preload"], "bind", read_only=True)
            options["mounts"] = [*options.get("mounts", ()), mount]
            options["environment"]["LD_PRELOAD"] = changes["preload"]
        return create(self, image, command, **options)

    mock.patch.object(ContainerCollection, "create", changed).start()


def build_by_buildkit(
    self: images.Images, context: Path, arguments: dict[str, str], key: str
) -> str:
    """Stand in for ``Images._build``; the SDK has the classic builder only.

    The client is Debian's, whose version has the builder of Debian's engine without a plugin.
    """
    given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    id_file = context.parent / "id"
    subprocess.run(
        [
            *("/usr/bin/docker", "build", "--quiet", "--no-cache", "--network=none"),
            *(f"--iidfile={id_file}", f"--label={images.KEY_LABEL}={key}", *given, str(context)),
        ],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return id_file.read_text(encoding="ascii")


def date_images(epoch: int) -> None:
    """Make images as of another time; containers keep theirs, which `.litertlm` files carry."""
    make = images.Images.__init__

    def dated(
        self: images.Images, client: Any, cache: Any, config: ImagesConfig, say: Any, **options: Any
    ) -> None:
        config = structs.replace(config, source_date_epoch=epoch)
        make(self, client, cache, config, say, **options)

    mock.patch.object(images.Images, "__init__", dated).start()


def main() -> None:
    """Apply the changes, then run the command."""
    changes = json.loads(sys.argv.pop(1))
    change_containers({"environment": {}, **changes})
    if changes.get("buildkit"):
        mock.patch.object(images, "REVISION", -1).start()
        mock.patch.object(images.Images, "_build", build_by_buildkit).start()
    if "epoch" in changes:
        date_images(changes["epoch"])
    cli.main()


if __name__ == "__main__":
    main()
