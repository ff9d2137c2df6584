"""The Docker engine: found, or installed on bare Debian; and given a parent of the base image."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import DockerException

from gemma3build.errors import BuildError, ErrorCode
from gemma3build.pins.config import ImagesConfig
from gemma3build.util.files import sha256_file

# Seconds for an answer: to save an image, the engine writes all layers before it answers.
TIMEOUT = 900
START_TIMEOUT = 60.0  # seconds for a daemon to answer
POLL = 0.2  # seconds between two attempts
SHOWN = 500  # characters of what a failed command said
ROOT_REPOSITORY = "gemma3build/root"  # name of a bootstrapped parent
DEBIAN_PACKAGES = ("ca-certificates", "docker.io", "iptables", "mmdebstrap")
NO_ENGINE = "No Docker engine answers"
HOW_TO_START = (
    "Start Docker (`systemctl start docker`, or Docker Desktop), or run `gemma3build engine` as root"
    " on Debian or Ubuntu to install one."
)


def connect() -> docker.DockerClient:
    """Return a client of the engine that DOCKER_HOST or the default socket names.

    Raises:
        BuildError: none answers (ENGINE).
    """
    try:
        client = docker.from_env(timeout=TIMEOUT)
        client.ping()
    except DockerException as error:
        raise BuildError(ErrorCode.ENGINE, NO_ENGINE, _cause(error), HOW_TO_START) from error
    return client


def ensure(say: Callable[[str], None]) -> str:
    """Make sure that an engine answers; return its version.

    An engine that is there is used as it is. Else, as root on a machine with apt, Debian's packages
    are installed and the daemon is started, by systemd where it runs and directly where it does not.

    Args:
        say: is given a line for each thing that is done.

    Raises:
        BuildError: none answers, and none can be installed (ENGINE).
    """
    try:
        client = connect()
    except BuildError as error:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        if shutil.which("dockerd") is None or shutil.which("mmdebstrap") is None:
            say(f"Installing {', '.join(DEBIAN_PACKAGES)} by apt")
            _install()
        say("Starting the Docker daemon")
        client = _start(error)
    return str(client.version()["Version"])


def bootstrap(client: docker.DockerClient, config: ImagesConfig, work: Path) -> tuple[str, str]:
    """Import a root file system of Debian's packages as the parent of the base image.

    Args:
        client: the engine.
        config: of which Debian release and packages it is, and its time stamp.
        work: a directory for its files.

    Returns:
        Its reference, and its kind and digest for the record.

    Raises:
        BuildError: mmdebstrap is missing or failed (IMAGE); the engine did not take it (ENGINE).
    """
    if shutil.which("mmdebstrap") is None:
        raise BuildError(
            ErrorCode.IMAGE,
            "The image base cannot be made",
            "no registry answers and mmdebstrap is not installed",
            "Connect to a registry, or on Debian run `apt-get install mmdebstrap` as root.",
        )
    root = work / "root.tar"
    parent = config.parent
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(parent.packages)}"]
    done = subprocess.run(
        [*command, parent.suite, str(root)],
        env={
            **{name: value for name, value in os.environ.items() if name.endswith("_proxy")},
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SOURCE_DATE_EPOCH": str(config.source_date_epoch),
            "TMPDIR": str(work),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = f"mmdebstrap failed: {done.stderr.strip()[-SHOWN:]}"
        raise BuildError(
            ErrorCode.IMAGE, "The image base cannot be made", why, "Check the network."
        )
    digest = sha256_file(root)
    tag = digest[:16]
    with root.open("rb") as file:
        answer = client.api.import_image_from_data(file, ROOT_REPOSITORY, tag=tag)
    if "error" in json.loads(answer.strip().splitlines()[-1]):
        raise BuildError(
            ErrorCode.ENGINE, "The base cannot be imported", answer, "Restart the engine."
        )
    return f"{ROOT_REPOSITORY}:{tag}", f"debian sha256:{digest}"


def engine_failed(what: str, error: Exception) -> BuildError:
    """Return the error of an engine that refused something, or went away."""
    why = str(getattr(error, "explanation", None) or error)
    hint = "Look at the engine, then run the same command again; finished steps are kept."
    return BuildError(ErrorCode.ENGINE, what, why, hint)


def _install() -> None:
    """Install the engine, and what bootstraps a base, by apt; raises BuildError (ENGINE)."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "--quiet=2"],
        ["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", *DEBIAN_PACKAGES],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(
                ErrorCode.ENGINE,
                "Docker cannot be installed",
                f"`{' '.join(command)}` failed: {done.stderr.strip()[-SHOWN:]}",
                "Fix apt, or install Docker by hand.",
            )


def _start(missing: BuildError) -> docker.DockerClient:
    """Start the daemon and wait until it answers; raises BuildError with the hint of ``missing``."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "start", "docker"], check=False)  # noqa: S607 - root's PATH
        daemon = None
        log = "`journalctl -u docker`"
    else:
        path = Path("/var/log/dockerd.log")
        log = str(path)
        with path.open("ab") as file:
            daemon = subprocess.Popen(
                ["dockerd"],  # noqa: S607 - root's PATH
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and (daemon is None or daemon.poll() is None):
        try:
            return connect()
        except BuildError:
            time.sleep(POLL)
    raise BuildError(
        ErrorCode.ENGINE, "The Docker daemon does not start", f"see {log}", missing.hint
    ) from missing


def _cause(error: DockerException) -> str:
    """Return why no engine answers, in words where the SDK has only the names of exceptions."""
    if isinstance(error.__context__, Exception) and "PermissionError" in repr(error):
        return "this user may not use its socket (is it in the group docker?)"
    if "FileNotFoundError" in repr(error) or "No such file" in str(error):
        return "its socket is not there"
    return str(error).strip() or type(error).__name__
