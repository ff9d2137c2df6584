"""One container: isolated, bounded, watched, and always removed."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.types import Mount as DockerMount
from filelock import Timeout
from requests import RequestException

from gemma3build.engine.cache import STAGING, Cache
from gemma3build.engine.docker import engine_failed
from gemma3build.engine.images import Image
from gemma3build.engine.preflight import MORE_MEMORY
from gemma3build.errors import BuildError, ErrorCode, from_step
from gemma3build.plan.graph import Step
from gemma3build.schema.step import (
    LOG_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    StepErrorCode,
    StepRequest,
    StepResult,
)
from gemma3build.util.git import PACKAGE_DIR
from gemma3build.util.serialize import decode_json, pretty_json
from gemma3build.util.text import MEBIBYTE, gibibytes

WORK = "/work"
SCRATCH = "/tmp"  # noqa: S108 - inside the container, which has one user
STAGED_LABEL = "gemma3build.staged"  # of a container: the directory that it writes to
ENDPOINT = "HF_ENDPOINT"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOG_LINES = 15
AGAIN = "Run the same command again; finished steps are kept."
WATCH_INTERVAL = 0.1  # seconds between two checks of a container
MEMORY_INTERVAL = 1.0  # seconds between two measurements of its memory
FULL = 64 * MEBIBYTE  # bytes: with less free, a failure is blamed on the disk


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of the host, read-only at a path in the container."""

    source: Path
    target: str


class Containers:
    """Runs steps in containers of one engine."""

    def __init__(
        self,
        client: docker.DockerClient,
        *,
        epoch: int,
        memory_limit: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Set what all containers share.

        Args:
            client: the engine.
            epoch: SOURCE_DATE_EPOCH, seconds since 1970 in UTC.
            memory_limit: for each container, in bytes; None leaves it to the machine.
            environment: for containers with a network only: the token, endpoint and proxies of the Hub.
        """
        self._client, self._epoch, self._memory_limit = client, epoch, memory_limit
        self._environment = environment or {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop and remove all running containers, from any thread; nothing can start after."""
        self._stopped.set()

    def check_stopped(self) -> None:
        """Raise BuildError once ``stop`` was called."""
        if self._stopped.is_set():
            why = "another step failed, or gemma3build got a signal"
            raise BuildError(ErrorCode.INTERRUPTED, "The step was stopped", why)

    def run(
        self,
        step: Step,
        *,
        image: Image,
        staged: Path,
        inputs: Mapping[str, str],
        mounts: list[Mount],
        on_memory: Callable[[int], None],
    ) -> StepResult:
        """Run a step to its end; its files are then in ``staged``.

        Raises:
            BuildError: the step rejected its input or crashed; the kernel killed it for its memory
                (MEMORY); ``stop`` was called (INTERRUPTED); the engine failed (ENGINE).
        """
        request = StepRequest(step=step.module, parameters=step.parameters, inputs=inputs)
        (staged / REQUEST_FILE).write_bytes(pretty_json(request))
        try:
            container = self._create(step, image, staged, mounts)
            try:
                container.start()
                self._watch(container, on_memory)
                state = container.attrs["State"]
            finally:
                with contextlib.suppress(NotFound):
                    container.remove(force=True)
        except (DockerException, RequestException) as error:
            self.check_stopped()
            raise engine_failed(f"The container of {step.name} failed", error) from error
        return self._result(step, staged, state)

    def _create(self, step: Step, image: Image, staged: Path, mounts: list[Mount]) -> Container:
        environment = {
            "PYTHONPATH": "/src",
            "SOURCE_DATE_EPOCH": str(self._epoch),
            # On disk and not in memory: converters spill gigabytes.
            "TMPDIR": f"{WORK}/scratch",
        }
        if step.network:
            # Xet needs further hosts, and the digests of the lockfile verify as much as it does.
            environment |= self._environment
            environment |= {"HF_HOME": f"{WORK}/hub", "HF_HUB_DISABLE_XET": "1"}
        binds = [
            DockerMount("/src/gemma3build", str(PACKAGE_DIR), "bind", read_only=True),
            DockerMount(WORK, str(staged), "bind"),
            *(
                DockerMount(mount.target, str(mount.source.resolve()), "bind", read_only=True)
                for mount in mounts
            ),
        ]
        limits: dict[str, Any] = {}
        if self._memory_limit is not None:
            limits = {"mem_limit": self._memory_limit, "memswap_limit": self._memory_limit}
        return self._client.containers.create(
            image.image_id,
            ["python", "-m", "gemma3build.steps", WORK],
            cap_drop=["ALL"],
            environment=environment,
            hostname="gemma3build",
            init=True,
            labels={STAGED_LABEL: str(staged)},
            mounts=binds,
            network_mode=network_mode(self._environment) if step.network else "none",
            read_only=True,
            security_opt=["no-new-privileges"],
            tmpfs={SCRATCH: "mode=1777"},
            user=f"{os.getuid()}:{os.getgid()}",
            working_dir=WORK,
            **limits,
        )

    def _watch(self, container: Container, on_memory: Callable[[int], None]) -> None:
        measured = time.monotonic()
        while True:
            container.reload()
            if container.status in ("exited", "dead"):
                return
            self._stopped.wait(WATCH_INTERVAL)
            self.check_stopped()
            if time.monotonic() - measured >= MEMORY_INTERVAL:
                measured = time.monotonic()
                stats = self._client.api.stats(str(container.id), stream=False, one_shot=True)
                on_memory(resident(stats.get("memory_stats") or {}))

    def remove_orphans(self, staged: Path) -> None:
        """Remove containers of killed builds that write to a directory of the cache.

        They are found by directory and not by key, which another cache on the same engine may share. The
        caller holds the lock of the key.

        Raises:
            BuildError: the engine failed (ENGINE).
        """
        with removing():
            for container in labelled(self._client, f"{STAGED_LABEL}={staged}"):
                with contextlib.suppress(APIError):
                    container.remove(force=True)

    def _result(self, step: Step, staged: Path, state: Mapping[str, Any]) -> StepResult:
        log = log_tail(staged / LOG_FILE)
        if state.get("OOMKilled"):
            limit = self._memory_limit
            bound = f"its limit of {gibibytes(limit)}" if limit else "this machine's memory"
            why = f"it needed more than {bound} (the estimate is {gibibytes(step.memory)})"
            what, hint = f"The kernel killed {step.name}", MORE_MEMORY
            raise BuildError(ErrorCode.MEMORY, what, why, hint)
        try:
            result = decode_json(StepResult, (staged / RESULT_FILE).read_bytes(), RESULT_FILE)
        except (FileNotFoundError, ValueError):
            check_full(step, staged)
            what = f"The container of {step.name} ended without a result"
            why = f"its exit status is {state.get('ExitCode')}, so something killed it"
            raise BuildError(ErrorCode.INTERNAL, what, why, AGAIN, log=log) from None
        if result.failure is not None:
            crashed = result.failure.code == StepErrorCode.INTERNAL
            if crashed:
                check_full(step, staged)
            raise from_step(result.failure, log if crashed else "")
        return result


def network_mode(environment: Mapping[str, str]) -> str:
    """Return the network that a container needs: the bridge cannot reach the host's loopback."""
    asked = (environment.get(name, "") for name in (ENDPOINT, *PROXIES))
    return "host" if any(map(is_on_loopback, asked)) else "bridge"


def is_on_loopback(address: str) -> bool:
    """Return whether an address, with or without a scheme, is on a machine's loopback."""
    try:
        name = urlsplit(address if "://" in address else f"//{address}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:  # it is another name, or not an address
        return False


def remove_orphans(client: docker.DockerClient, cache: Cache) -> None:
    """Remove containers of killed processes that write anywhere in a cache, those of rebuilds too.

    Raises:
        BuildError: the engine failed (ENGINE).
    """
    with removing():
        for container in labelled(client, STAGED_LABEL):
            staged = Path(container.labels[STAGED_LABEL])
            if staged.is_relative_to(cache.root / STAGING):
                with contextlib.suppress(APIError, Timeout), cache.try_lock(staged):
                    container.remove(force=True)


def labelled(client: docker.DockerClient, label: str) -> list[Container]:
    """Return the containers with a label, running or not."""
    filters: dict[str, str | list[str] | bool] = {"label": label}
    return client.containers.list(all=True, filters=filters, ignore_removed=True)


@contextlib.contextmanager
def removing() -> Iterator[None]:
    """Raise BuildError where the engine fails while containers are removed."""
    try:
        yield
    except (DockerException, RequestException) as error:
        raise engine_failed("Containers of killed builds cannot be removed", error) from error


def check_full(step: Step, staged: Path) -> None:
    """Raise BuildError (DISK) if a step crashed on a full disk, an error that libraries hide."""
    if shutil.disk_usage(staged).free < FULL:
        why = f"the disk of {staged.parent} is full"
        hint = "Free some space and run the same command again; finished steps are kept."
        raise BuildError(ErrorCode.DISK, f"{step.name} stopped", why, hint)


def resident(memory: Mapping[str, Any]) -> int:
    """Return the memory of a container without the page cache, in bytes, by the names of cgroup 1 and 2."""
    details = memory.get("stats") or {}
    return int(details.get("rss") or details.get("anon") or memory.get("usage") or 0)


def log_tail(path: Path) -> str:
    """Return the last lines of a log, empty if there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_LINES * 500))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_LINES:])
