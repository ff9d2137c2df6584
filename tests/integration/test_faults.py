"""Builds that are killed, raced, starved and fed damaged stores."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from gemma3build.engine.container import KEY_LABEL
from gemma3build.errors import NoMemoryError, NoSpaceError, OutputError
from tests.conftest import SHAPES, Command

pytestmark = pytest.mark.integration

INT8 = ("--scheme", "dynamic_int8")


def build(tiny: Path, *arguments: str) -> tuple[str, ...]:
    return ("build", "--checkpoint", str(tiny), *SHAPES, *INT8, *arguments)


def containers(client: docker.DockerClient) -> list[str]:
    found = client.containers.list(all=True, filters={"label": KEY_LABEL})
    return [str(container.id) for container in found]


def wait_for_container(client: docker.DockerClient, others: list[str] | None = None) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = set(containers(client)) - set(others or ())
        if found:
            return found.pop()
        time.sleep(0.05)
    message = "no container was started"
    raise AssertionError(message)


def wait_until_exporting(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if "export …" in line:
            return
    message = "the export never started"
    raise AssertionError(message)


def without_export(warm: Command, tmp_path: Path, *steps: str) -> Command:
    """Return the command with a copy of the warm cache that lacks some steps."""
    cache = shutil.copytree(warm.cache, tmp_path / "cache")
    for entry in (cache / "steps").glob("*/entry.json"):
        if any(f'"step": "{step}"' in entry.read_text() for step in steps):
            shutil.rmtree(entry.parent)
    return Command(cache, tmp_path)


def test_a_killed_build_leaves_no_release_and_the_next_goes_on(
    warm: Command, tiny: Path, tmp_path: Path, client: docker.DockerClient
) -> None:
    command = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    process = command.start(*build(tiny))
    wait_until_exporting(process)
    wait_for_container(client)
    process.kill()
    process.communicate()
    assert not (tmp_path / "artifacts").exists()
    done = command.run(*build(tiny))
    assert done.returncode == 0, done.stderr
    assert "check  kept from before" in done.stderr
    assert "export …" in done.stderr
    assert containers(client) == []
    assert not any((command.cache / "staging").iterdir())


def test_a_killed_container_is_an_error_and_the_next_build_goes_on(
    warm: Command, tiny: Path, tmp_path: Path, client: docker.DockerClient
) -> None:
    command = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    process = command.start(*build(tiny))
    wait_until_exporting(process)
    client.api.kill(wait_for_container(client), signal=signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 41
    assert "The container of export ended without a result" in output
    assert not (tmp_path / "artifacts").exists()
    assert command.run(*build(tiny)).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_removes_its_containers_at_once(
    warm: Command, tiny: Path, tmp_path: Path, client: docker.DockerClient, number: signal.Signals
) -> None:
    command = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    process = command.start(*build(tiny))
    wait_until_exporting(process)
    wait_for_container(client)
    process.send_signal(number)
    started = time.monotonic()
    output, _ = process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - started < 5
    assert "finished steps are kept" in output
    assert "Traceback" not in output
    assert containers(client) == []
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


def test_a_corrupt_result_is_made_anew_with_the_same_bytes(
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
    assert done.returncode == NoSpaceError.exit_code
    assert "There is not enough disk space" in done.stderr
    assert "GiB are free" in done.stderr


def test_a_disk_that_fills_up_in_a_step_is_an_error_and_leaves_nothing_half_written(
    warm: Command, tiny: Path, tmp_path: Path, small_disk: Path, client: docker.DockerClient
) -> None:
    source = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    command = Command(shutil.copytree(source.cache, small_disk / "cache"), tmp_path)
    process = command.start(*build(tiny))
    wait_until_exporting(process)
    wait_for_container(client)

    def fill() -> None:
        with (small_disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()

    with pytest.raises(OSError, match="No space left"):
        fill()
    output, _ = process.communicate()
    assert process.returncode == NoSpaceError.exit_code, output
    assert not (tmp_path / "artifacts").exists()
    (small_disk / "filler").unlink()
    assert command.run(*build(tiny)).returncode == 0


def test_a_machine_that_is_too_small_is_noticed_before_the_work(cold: Command, tiny: Path) -> None:
    done = cold.run(*build(tiny, "--memory", "200M"))
    assert done.returncode == NoMemoryError.exit_code
    assert "There is not enough memory for" in done.stderr
    assert not (cold.cache / "steps").exists()


def test_no_engine_is_an_error_that_says_what_to_do(cold: Command, tiny: Path) -> None:
    done = cold.run(*build(tiny), DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 10
    assert "No Docker engine answers" in done.stderr
    assert "gemma3build engine" in done.stderr


def test_an_output_that_cannot_be_written_is_noticed_before_the_work(
    cold: Command, tiny: Path
) -> None:
    blocker = cold.folder / "blocker"
    blocker.write_text("")
    done = cold.run(*build(tiny, "--output", str(blocker / "release")))
    assert done.returncode == OutputError.exit_code
    assert "cannot be written" in done.stderr
    assert not (cold.cache / "steps").exists()


def test_a_checkpoint_that_changes_under_the_build_gives_no_release(
    warm: Command, tiny: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(tiny, tmp_path / "tiny")
    command = without_export(warm, tmp_path, "export", "quantize-dynamic_int8")
    process = command.start(*build(mine))
    wait_until_exporting(process)
    os.utime(mine / "model.safetensors")
    output, _ = process.communicate()
    assert process.returncode == 23, output
    assert not (tmp_path / "artifacts").exists()
