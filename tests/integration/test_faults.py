"""Builds that are killed, raced, starved and fed damaged stores."""

import contextlib
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from gemma3build.engine.container import STAGED_LABEL
from gemma3build.errors import ErrorCode
from tests.conftest import SHAPES, Command

pytestmark = pytest.mark.integration

INT8 = ("--scheme", "dynamic_int8")


def build(tiny: Path, *arguments: str) -> tuple[str, ...]:
    return ("build", "--checkpoint", str(tiny), *SHAPES, *INT8, *arguments)


def containers(client: docker.DockerClient, command: Command) -> list[str]:
    """Return the ids of the containers that write to the command's cache."""
    found = client.containers.list(all=True, filters={"label": STAGED_LABEL}, ignore_removed=True)
    return [
        str(container.id)
        for container in found
        if container.labels[STAGED_LABEL].startswith(f"{command.cache}/")
    ]


def wait_for_container(client: docker.DockerClient, command: Command) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := containers(client, command):
            return found[0]
        time.sleep(0.05)
    message = "no container was started"
    raise AssertionError(message)


def wait_until(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    message = f"{text} was never said"
    raise AssertionError(message)


def without_export(warm: Command, tmp_path: Path, *steps: str) -> Command:
    """Return the command with a copy of the warm cache that lacks some steps."""
    cache = shutil.copytree(warm.cache, tmp_path / "cache")
    for entry in (cache / "steps").glob("*/entry.json"):
        if any(f'"step": "{step}"' in entry.read_text() for step in steps):
            shutil.rmtree(entry.parent)
    return Command(cache, tmp_path)


def sums(folder: Path) -> str:
    return (folder / "artifacts" / "tiny" / "SHA256SUMS").read_text()


@pytest.mark.parametrize(
    "step", ["export", "quantize-dynamic_int8", "bundle-dynamic_int8", "gate-dynamic_int8"]
)
def test_a_build_killed_in_a_step_leaves_no_release_and_the_next_goes_on(
    warm: Command, tiny: Path, tmp_path: Path, client: docker.DockerClient, step: str
) -> None:
    command = without_export(warm, tmp_path, step)
    process = command.start(*build(tiny))
    wait_until(process, f"{step} …")
    wait_for_container(client, command)
    process.kill()
    process.communicate()
    assert not (tmp_path / "artifacts").exists()
    done = command.run(*build(tiny))
    assert done.returncode == 0, done.stderr
    assert "check  kept from before" in done.stderr
    assert f"{step} …" in done.stderr
    assert containers(client, command) == []
    assert not any((command.cache / "staging").iterdir())
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"],
        cwd=tmp_path / "artifacts" / "tiny",
        check=True,
    )


def test_a_build_killed_after_every_step_runs_each_once_and_gives_the_same_bytes(
    warm: Command, cold: Command, tiny: Path, client: docker.DockerClient
) -> None:
    ran: list[str] = []
    returncode = -signal.SIGKILL
    while returncode == -signal.SIGKILL:
        assert not (cold.folder / "artifacts").exists() or sums(cold.folder)
        process = cold.start(*build(tiny))
        assert process.stdout is not None
        for line in process.stdout:
            if "✓" in line and "kept from before" not in line:
                ran.append(line.split()[2])
                process.kill()
                break
        process.communicate()
        returncode = process.returncode
    assert returncode == 0
    plan = cold.json(*build(tiny, "--dry-run"))
    assert sorted(ran) == sorted(step["name"] for step in plan["steps"])
    assert containers(client, cold) == []
    assert not any((cold.cache / "staging").iterdir())
    expected = cold.folder / "expected"
    assert warm.run(*build(tiny, "--output", str(expected))).returncode == 0
    assert sums(cold.folder) == (expected / "SHA256SUMS").read_text()


ENGINE = "/var/run/docker.sock"


class Forwarder:
    """A socket in front of the engine's own, which can be cut."""

    def __init__(self, path: Path) -> None:
        self._sockets: list[socket.socket] = []
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.socket(socket.AF_UNIX) as engine:
                    engine.connect(ENGINE)
                    outer._sockets += [self.request, engine]
                    back = threading.Thread(target=copy, args=(engine, self.request))
                    back.start()
                    copy(self.request, engine)
                    back.join()

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def cut(self) -> None:
        """Close the socket and all that goes through it, as a daemon does that restarts."""
        self._server.shutdown()
        self._server.server_close()
        Path(str(self._server.server_address)).unlink()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_an_engine_that_goes_away_in_a_step_is_an_error_and_the_next_build_goes_on(
    warm: Command, tiny: Path, tmp_path: Path, client: docker.DockerClient
) -> None:
    command = without_export(warm, tmp_path, "quantize-dynamic_int8")
    front = tmp_path / "docker.sock"
    forwarder = Forwarder(front)
    process = command.start(*build(tiny), DOCKER_HOST=f"unix://{front}")
    wait_until(process, "quantize-dynamic_int8 …")
    left = wait_for_container(client, command)
    forwarder.cut()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == ErrorCode.ENGINE.exit_code, output
    assert "The container of quantize-dynamic_int8 failed" in output
    assert "Traceback" not in output
    assert not (tmp_path / "artifacts").exists()
    assert command.run(*build(tiny)).returncode == 0
    assert left not in containers(client, command)
    assert not any((command.cache / "staging").iterdir())


def test_a_killed_container_is_an_error_and_the_next_build_goes_on(
    warm: Command, tiny: Path, tmp_path: Path, client: docker.DockerClient
) -> None:
    command = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    process = command.start(*build(tiny))
    wait_until(process, "export …")
    client.api.kill(wait_for_container(client, command), signal=signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == ErrorCode.INTERNAL.exit_code
    assert "The container of export ended without a result" in output
    assert not (tmp_path / "artifacts").exists()
    assert command.run(*build(tiny)).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_removes_its_containers_at_once(
    warm: Command, tiny: Path, tmp_path: Path, client: docker.DockerClient, number: signal.Signals
) -> None:
    command = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    process = command.start(*build(tiny))
    wait_until(process, "export …")
    wait_for_container(client, command)
    process.send_signal(number)
    started = time.monotonic()
    output, _ = process.communicate()
    assert process.returncode == ErrorCode.INTERRUPTED.exit_code
    assert time.monotonic() - started < 5
    assert "finished steps are kept" in output
    assert "Traceback" not in output
    assert containers(client, command) == []
    assert not any((command.cache / "staging").iterdir())


def test_two_builds_at_once_run_each_step_once(warm: Command, tiny: Path, tmp_path: Path) -> None:
    command = without_export(
        warm, tmp_path, "check", "quantize-dynamic_int8", "bundle-dynamic_int8"
    )
    first = command.start(*build(tiny, "--output", "one"))
    second = command.start(*build(tiny, "--output", "two"))
    outputs = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    for step in ("check", "quantize-dynamic_int8", "bundle-dynamic_int8"):
        assert sum(f"{step} …" in output for output in outputs) == 1, outputs
    sums = [(tmp_path / name / "SHA256SUMS").read_text() for name in ("one", "two")]
    assert sums[0] == sums[1]


def test_two_builds_of_two_stores_leave_each_others_containers(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    both = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        both.append(without_export(warm, tmp_path / name, "quantize-dynamic_int8"))
    processes = [command.start(*build(tiny)) for command in both]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("quantize-dynamic_int8 …" in output for output in outputs)


@pytest.mark.parametrize("file", ["output/tiny_q8_ekv64.tflite", "entry.json"])
def test_a_truncated_result_is_made_again_with_the_same_bytes(
    warm: Command, tiny: Path, tmp_path: Path, file: str
) -> None:
    command = without_export(warm, tmp_path)
    assert command.run(*build(tiny)).returncode == 0
    expected = sums(tmp_path)
    (model,) = command.cache.glob("steps/*/output/tiny_q8_ekv64.tflite")
    path = model.parents[1] / file
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)
    done = command.run(*build(tiny))
    assert done.returncode == 0, done.stderr
    assert "quantize-dynamic_int8 …" in done.stderr
    assert sums(tmp_path) == expected


def test_a_gate_that_rotted_is_an_error_once_and_then_made_again(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    command = without_export(warm, tmp_path)
    assert command.run(*build(tiny)).returncode == 0
    expected = sums(tmp_path)
    for path in command.cache.glob("steps/*/output/gate.json"):
        before = path.stat()
        path.chmod(0o644)
        path.write_bytes(b"?" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = command.run(*build(tiny))
    assert done.returncode == ErrorCode.DAMAGED.exit_code
    assert "the stored result of gate-dynamic_int8 was damaged" in done.stderr
    done = command.run(*build(tiny))
    assert done.returncode == 0, done.stderr
    assert "gate-dynamic_int8 …" in done.stderr
    assert sums(tmp_path) == expected


def test_a_clock_that_jumps_changes_nothing(warm: Command, tiny: Path, tmp_path: Path) -> None:
    command = without_export(warm, tmp_path)
    assert command.run(*build(tiny)).returncode == 0
    for moment in (0, 4_000_000_000):  # 1970 and 2096
        for path in (*command.cache.rglob("*"), *(tmp_path / "artifacts").rglob("*")):
            os.utime(path, (moment, moment))
        assert command.json(*build(tiny))["idle"]


def test_a_corrupt_result_is_made_again_with_the_same_bytes(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    command = without_export(warm, tmp_path)
    release = tmp_path / "artifacts" / "tiny"
    assert command.run(*build(tiny)).returncode == 0
    sums = (release / "SHA256SUMS").read_text()
    (stored,) = command.cache.glob("steps/*/output/tiny_q8_ekv64.tflite")
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    done = command.run(*build(tiny))
    assert done.returncode == 0, done.stderr
    assert "quantize-dynamic_int8 …" in done.stderr
    assert "bundle-dynamic_int8  kept from before" in done.stderr
    assert (release / "SHA256SUMS").read_text() == sums
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=release, check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_too_small_is_noticed_before_the_work(
    cold: Command, tiny: Path, small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(bytes(456 << 20))
    done = Command(small_disk / "cache", cold.folder).run(*build(tiny))
    assert done.returncode == ErrorCode.DISK.exit_code
    assert "There is not enough disk space" in done.stderr
    assert "GiB are free" in done.stderr


def test_a_disk_that_fills_up_in_a_step_is_an_error_and_leaves_nothing_half_written(
    warm: Command, tiny: Path, tmp_path: Path, small_disk: Path, client: docker.DockerClient
) -> None:
    source = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    command = Command(shutil.copytree(source.cache, small_disk / "cache"), tmp_path)
    process = command.start(*build(tiny))
    wait_until(process, "export …")
    wait_for_container(client, command)

    def fill() -> None:
        with (small_disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()

    with pytest.raises(OSError, match="No space left"):
        fill()
    output, _ = process.communicate()
    assert process.returncode == ErrorCode.DISK.exit_code, output
    assert not (tmp_path / "artifacts").exists()
    (small_disk / "filler").unlink()
    assert command.run(*build(tiny)).returncode == 0


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let a directory take no change, not even by root."""
    subprocess.run(["mount", "--bind", "-o", "ro", str(folder), str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_cache_that_is_read_only_is_noticed_before_the_work(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    command = without_export(warm, tmp_path, "export")
    with read_only(command.cache):
        done = command.run(*build(tiny))
    assert done.returncode == ErrorCode.OUTPUT.exit_code
    assert f"{command.cache} cannot be written" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "…" not in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_a_release_is_up_to_date_on_a_read_only_disk(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    command = without_export(warm, tmp_path)
    assert command.run(*build(tiny)).returncode == 0
    with read_only(tmp_path):
        assert command.json(*build(tiny))["idle"]


def test_a_damaged_result_on_a_read_only_disk_is_an_error(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    command = without_export(warm, tmp_path)
    (stored,) = command.cache.glob("steps/*/output/tiny_q8_ekv64.tflite")
    stored.unlink()
    with read_only(command.cache):
        done = command.run(*build(tiny))
    assert done.returncode == ErrorCode.OUTPUT.exit_code
    assert "The cache cannot be used" in done.stderr


def test_a_machine_that_is_too_small_is_noticed_before_the_work(cold: Command, tiny: Path) -> None:
    done = cold.run(*build(tiny, "--memory", "200M"))
    assert done.returncode == ErrorCode.MEMORY.exit_code
    assert "There is not enough memory for" in done.stderr
    assert not (cold.cache / "steps").exists()


def test_no_engine_is_an_error_that_says_what_to_do(cold: Command, tiny: Path) -> None:
    done = cold.run(*build(tiny), DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == ErrorCode.ENGINE.exit_code
    assert "No Docker engine answers" in done.stderr
    assert "gemma3build engine" in done.stderr


def test_an_output_that_cannot_be_written_is_noticed_before_the_work(
    cold: Command, tiny: Path
) -> None:
    blocker = cold.folder / "blocker"
    blocker.write_text("")
    done = cold.run(*build(tiny, "--output", str(blocker / "release")))
    assert done.returncode == ErrorCode.OUTPUT.exit_code
    assert "cannot be written" in done.stderr
    assert not (cold.cache / "steps").exists()


def test_a_checkpoint_that_changes_under_the_build_gives_no_release(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(tiny, tmp_path / "tiny")
    command = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    process = command.start(*build(mine))
    wait_until(process, "export …")
    os.utime(mine / "model.safetensors")
    output, _ = process.communicate()
    assert process.returncode == ErrorCode.INPUT_CHANGED.exit_code, output
    assert not (tmp_path / "artifacts").exists()
