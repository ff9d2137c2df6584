"""The release pipeline with stand-ins for the steps: a release appears as if they had run."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from typer.testing import CliRunner, Result

from gemma3build.cli.app import app
from gemma3build.engine import preflight
from gemma3build.engine.cache import Cache
from gemma3build.errors import BuildError, ErrorCode
from gemma3build.plan.graph import Step
from gemma3build.release.checksums import SIGNATURE
from gemma3build.schema.evaluation import EVALUATION
from gemma3build.util.git import GitRevision
from gemma3build.workflows.evaluate import EvaluationRequest
from tests.support.publishing import name_source
from tests.support.release import edit_json, figures, write_release

CLEAN = GitRevision(commit="c" * 40, dirty=False)
LATER = GitRevision(commit="d" * 40, dirty=False)
NAMES = ("short", "long")
FILE = """
[[release]]
model = "gemma3-270m"
name = "short"
repo = "org/short"

[[release]]
model = "gemma3-270m"
name = "long"
kv_cache_max_len = 2048
repo = "org/long"
"""


class Works:
    """Stands for the steps: records what ran, and fails at a stage of a release."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.ran, self.failures = cache, list[str](), dict[str, BaseException]()
        self.asked: list[EvaluationRequest] = []
        self.unfit: set[str] = set()
        self.there: set[str] = set()
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self.unavailable = False
        self.own = False

    def run(self, stage: str, folder: Path) -> None:
        self.ran.append(f"{stage} {folder.name}")
        self.meanwhile.pop(self.ran[-1], lambda: None)()
        if failure := self.failures.pop(self.ran[-1], None):
            raise failure

    def fitting(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        for name in self.unfit:
            if any(step.name == name for step in steps):
                raise BuildError(
                    ErrorCode.MEMORY, "There is not enough memory", "it is small", "Get more."
                )
        missing = tuple(step for step in steps if step.fresh or step.name not in self.there)
        preflight.check_disk(sum(step.disk for step in missing), self.cache.root)
        return missing

    def say(self, text: str) -> None:
        self.ran.append(text)

    def ensure(self, _: object, folder: Path, *__: object) -> Any:
        self.run("build", folder)
        idle = folder.exists()
        if not idle:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_release(folder)
            name_source(folder)
        return SimpleNamespace(idle=idle)

    def prepare(self, _: object, request: EvaluationRequest, *__: object) -> Any:
        self.asked.append(request)
        return (), None

    def evaluate(self, found: Any, *_: object) -> None:
        self.run("evaluate", found.folder)
        (found.folder / SIGNATURE).unlink(missing_ok=True)

        def change(evaluation: Any) -> None:
            for scheme in evaluation["schemes"]:
                scheme.update(figures("a processor"))

        edit_json(found.folder / EVALUATION, change)

    def find_questions(self, *_: object) -> tuple[None, bool]:
        if self.unavailable:
            raise BuildError(
                ErrorCode.DOWNLOAD, "The dataset piqa cannot be fetched", "no network", "Fix it."
            )
        return None, self.own


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["release", "releases.toml", "v1", *arguments])


def done(*arguments: str, key: tuple[str, ...] = ("--key", "release.key")) -> Any:
    found = run(*key, *arguments, "--json")
    assert found.exit_code == 0, found.exception
    return json.loads(found.stdout)


def failed(*arguments: str, key: tuple[str, ...] = ("--key", "release.key")) -> BuildError:
    error = run(*key, *arguments).exception
    assert isinstance(error, BuildError), repr(error)
    return error


def alone(name: str, *arguments: str, version: str = "v1") -> tuple[Any, str]:
    """Release one of the file by itself; return what was done, and what the command printed on standard error."""
    head, *tables = FILE.split("[[release]]")
    (table,) = (text for text in tables if f'name = "{name}"' in text)
    Path("one.toml").write_text(f"{head}[[release]]{table}")
    command = ["release", "one.toml", version, "--key", "release.key", "--json", *arguments]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.exception
    return json.loads(found.stdout), found.stderr


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
