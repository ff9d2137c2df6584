"""What the sessions of nox do about programs that a machine lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import PACKAGES, ensure

ROOT = Path(__file__).parents[2]
APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> {log}
exit {status}
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has git and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    executable(folder / "git", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def be_user(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("os.geteuid", lambda: number)


def test_nothing_is_done_where_nothing_is_missing(bare: Path) -> None:
    assert ensure(["git"]) == ""


def test_root_installs_the_packages_of_what_is_missing(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_user(monkeypatch, 0)
    log = tmp_path / "log"
    executable(bare / "apt-get", APT.format(log=log, status=0))
    assert ensure(["chromedriver", "chromium", "git"]) == ""
    assert log.read_text().splitlines() == [
        "noninteractive update --quiet=2",
        "noninteractive install --yes chromium-driver chromium --quiet=2",
    ]


def test_an_apt_that_fails_is_an_error(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_user(monkeypatch, 0)
    executable(bare / "apt-get", APT.format(log=tmp_path / "log", status=100))
    assert ensure(["openssl"]) == "The tests need openssl, and `apt-get update` failed."


@pytest.mark.parametrize(("number", "apt"), [(1000, True), (0, False)])
def test_who_cannot_install_is_told_the_command(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, apt: bool
) -> None:
    be_user(monkeypatch, number)
    log = tmp_path / "log"
    if apt:
        executable(bare / "apt-get", APT.format(log=log, status=0))
    assert ensure(["chromium", "git", "openssl"]) == (
        "The tests need chromium, openssl. On Debian, run as root:"
        " apt-get update && apt-get install --yes chromium openssl"
    )
    assert not log.exists()


def test_the_command_ends_with_an_error_before_anything_runs(bare: Path) -> None:
    command = [sys.executable, "-m", "tests.support.programs", "openssl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "apt-get install --yes openssl" in done.stderr


def test_every_program_that_a_session_requires_has_a_package() -> None:
    text = (ROOT / "noxfile.py").read_text()
    required = [line for line in text.splitlines() if "require(session, " in line]
    assert len(required) == 3
    for line in required:
        names = line.partition("session, ")[2].rstrip(")").split(", ")
        assert {name.strip('"') for name in names} <= set(PACKAGES)
