"""The parent of the base image where no registry answers: bootstrapped from Debian's packages."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import docker

from gemma3build.core.digests import sha256_file
from gemma3build.errors import EngineError, ImageError
from gemma3build.pins.intent import ImagesIntent


def bootstrap(client: docker.DockerClient, intent: ImagesIntent, work: Path) -> tuple[str, str]:
    """Return the reference of a bootstrapped parent, and its kind and digest for the record.

    Args:
        client: the engine that is given it.
        intent: of which release and packages it is.
        work: a directory for its files.

    Raises:
        ImageError: mmdebstrap is missing or failed.
        EngineError: the engine did not take it.
    """
    if shutil.which("mmdebstrap") is None:
        raise ImageError(
            "The image base cannot be made",
            "no registry answers and mmdebstrap is not installed",
            "Connect to a registry, or on Debian run `apt-get install mmdebstrap` as root.",
        )
    root = work / "root.tar"
    parent = intent.parent
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(parent.packages)}"]
    done = subprocess.run(
        [*command, parent.suite, str(root)],
        env={
            **{name: value for name, value in os.environ.items() if name.endswith("_proxy")},
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SOURCE_DATE_EPOCH": str(intent.source_date_epoch),
            "TMPDIR": str(work),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = f"mmdebstrap failed: {done.stderr.strip()[-500:]}"
        raise ImageError("The image base cannot be made", why, "Check the network.")
    digest = sha256_file(root)
    reference = f"gemma3build/root:{digest[:16]}"
    with root.open("rb") as file:
        repository, _, tag = reference.partition(":")
        answer = client.api.import_image_from_data(file, repository, tag=tag)
    if "error" in json.loads(answer.strip().splitlines()[-1]):
        raise EngineError("The base cannot be imported", answer, "Restart the engine.")
    return reference, f"debian sha256:{digest}"
