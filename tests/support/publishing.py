"""What tests publish, and how: a release that may be, and the command against a hub on loopback."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from gemma3build.cli.app import app
from gemma3build.errors import BuildError
from gemma3build.release.checksums import PROVENANCE
from gemma3build.schema.evaluation import EVALUATION
from tests.support.hub import MAIN, Commit, Hub
from tests.support.release import (
    edit_json,
    figures,
    write_provenance,
    write_release,
)

REPO, TOKEN = "org/gemma", "hf_secret"
MEASURED = figures("Some | processor")


def measure(folder: Path, **changes: Any) -> None:
    def change(evaluation: Any) -> None:
        for scheme in evaluation["schemes"]:
            scheme |= {**MEASURED, **changes}

    edit_json(folder / EVALUATION, change)


def name_source(folder: Path, *, dirty: bool = False) -> None:
    write_provenance(folder)
    statement = json.loads((folder / PROVENANCE).read_text())
    own = {
        "name": "gemma3build",
        "digest": {"gitCommit": "c" * 40},
        "annotations": {"dirty": dirty},
    }
    statement["predicate"] = {"buildDefinition": {"resolvedDependencies": [own]}}
    (folder / PROVENANCE).write_text(json.dumps(statement) + "\n")


def measured_release(folder: Path) -> Path:
    """Write a release that holds to every rule."""
    write_release(folder)
    measure(folder)
    name_source(folder)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def publish(release: Path, *arguments: str) -> Any:
    done = run("publish", str(release), "--repo", REPO, "--json", *arguments)
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def failed(*arguments: str) -> BuildError:
    error = run(*arguments).exception
    assert isinstance(error, BuildError), repr(error)
    assert TOKEN not in str(error)
    return error


def head(hub: Hub, ref: str = MAIN) -> Commit:
    repo = hub.repos[REPO]
    return repo.commits[repo.refs[ref]]


def content(release: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release.iterdir()}
