"""What a command loads: reading a release loads no engine, and an idle build loads little."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gemma3build

READING = ("publish", "rebuild", "release", "report", "verify")
ENGINE = ("docker", "requests", "gemma3build.engine", "gemma3build.plan")


def loaded(code: str, *unwanted: str) -> str:
    """Run code in a new process; return which unwanted packages it loaded."""
    check = (
        f"{code}\n"
        "import sys\n"
        f"names = {{name for name in {unwanted} for found in sys.modules\n"
        "    if found == name or found.startswith(name + '.')}\n"
        "sys.stderr.write(' '.join(sorted(names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def modules(room: str) -> list[str]:
    (root,) = gemma3build.__path__
    found = pkgutil.walk_packages([f"{root}/{room}"], f"gemma3build.{room}.")
    return [f"gemma3build.{room}", *(module.name for module in found)]


def test_verifying_loads_no_engine() -> None:
    assert loaded("import gemma3build.verify.verify", *ENGINE) == ""


@pytest.mark.parametrize("room", READING)
def test_reading_a_release_loads_no_engine(room: str) -> None:
    names = modules(room)
    assert len(names) > 3
    # model-signing loads requests, for a signature by an identity.
    signing = f"gemma3build.{room}.signature" in names
    unwanted = [name for name in ENGINE if not (signing and name == "requests")]
    assert loaded(f"import {', '.join(names)}", *unwanted) == ""


def test_the_commands_that_read_releases_load_no_engine(release: Path) -> None:
    code = "import sys\nsys.argv = ['gemma3build', 'verify', {!r}]\n"
    code += "from gemma3build.cli.app import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    assert loaded(code.format(str(release)), *ENGINE) == ""


def test_the_command_loads_without_what_belongs_into_containers() -> None:
    code = "import gemma3build.cli.app, gemma3build.workflows.build"
    containers = ("torch", "numpy", "mediapipe", "safetensors")
    slow = ("cyclonedx", "in_toto_attestation", "huggingface_hub", "model_signing", "jsonschema")
    assert loaded(code, *containers, *slow) == ""
