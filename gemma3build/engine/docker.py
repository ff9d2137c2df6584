"""The Docker engine: find it, install it on bare Debian, and import a parent of the base image."""

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

# Seconds: to save an image, the engine writes all layers before it answers.
TIMEOUT = 900
START_TIMEOUT = 60.0  # seconds for a daemon to answer
POLL = 0.2  # seconds between two attempts
SHOWN = 500  # characters of a failed command's output
ROOT_REPOSITORY = "gemma3build/root"  # of a bootstrapped parent
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

    Where none answers, gemma3build, as root on a machine with apt, installs Debian's packages and starts the
    daemon, by systemd where it runs. ``say`` gets a line for each action.

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
    """Import a root file system of Debian packages as the parent of the base image.

    Args:
        client: the engine.
        config: names the Debian release, its packages and the time stamp.
        work: a directory for temporary files.

    Returns:
        Its reference, and its kind and digest for the manifest.

    Raises:
        BuildError: mmdebstrap is missing or failed (IMAGE); the engine rejected it (ENGINE).
    """
    what = "The image base cannot be made"
    if shutil.which("mmdebstrap") is None:
        why = "no registry answers and mmdebstrap is not installed"
        hint = "Connect to a registry, or on Debian run `apt-get install mmdebstrap` as root."
        raise BuildError(ErrorCode.IMAGE, what, why, hint)
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
        raise BuildError(ErrorCode.IMAGE, what, why, "Check the network.")
    digest = sha256_file(root)
    tag = digest[:16]
    with root.open("rb") as file:
        answer = client.api.import_image_from_data(file, ROOT_REPOSITORY, tag=tag)
    if "error" in json.loads(answer.strip().splitlines()[-1]):
        what = "The base cannot be imported"
        raise BuildError(ErrorCode.ENGINE, what, answer, "Restart the engine.")
    return f"{ROOT_REPOSITORY}:{tag}", f"debian sha256:{digest}"


def engine_failed(what: str, error: Exception) -> BuildError:
    """Return the error of an engine that rejected a request or stopped answering."""
    why = str(getattr(error, "explanation", None) or error)
    hint = "Check the Docker engine, then run the same command again; finished steps are kept."
    return BuildError(ErrorCode.ENGINE, what, why, hint)


def _install() -> None:
    """Install the engine and mmdebstrap by apt; raises BuildError (ENGINE)."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "--quiet=2"],
        ["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", *DEBIAN_PACKAGES],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            why = f"`{' '.join(command)}` failed: {done.stderr.strip()[-SHOWN:]}"
            hint = "Fix apt, or install Docker yourself."
            raise BuildError(ErrorCode.ENGINE, "Docker cannot be installed", why, hint)


def _start(missing: BuildError) -> docker.DockerClient:
    """Start the daemon and wait until it answers; raises BuildError with the hint of ``missing``."""
    daemon, log = None, "`journalctl -u docker`"
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "start", "docker"], check=False)  # noqa: S607 - root's PATH
    else:
        log = "/var/log/dockerd.log"
        with Path(log).open("ab") as file:
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
    what = "The Docker daemon does not start"
    raise BuildError(ErrorCode.ENGINE, what, f"see {log}", missing.hint) from missing


def _cause(error: DockerException) -> str:
    """Return why no engine answers; the SDK often gives only names of exceptions."""
    if isinstance(error.__context__, Exception) and "PermissionError" in repr(error):
        return "you may not use its socket (are you in the group docker?)"
    if "FileNotFoundError" in repr(error) or "No such file" in str(error):
        return "its socket does not exist"
    return str(error).strip() or type(error).__name__
