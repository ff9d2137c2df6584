"""Import rules that import-linter cannot check."""

import ast
import sys
from pathlib import Path

from gemma3build.pins.config import CONTAINERS_DIR

PACKAGE = Path(__file__).parents[2] / "gemma3build"


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_what_every_container_runs_needs_msgspec_alone() -> None:
    rooms = ("util", "formats", "schema", "gemma")
    modules = [path for room in rooms for path in (PACKAGE / room).rglob("*.py")]
    modules += (PACKAGE / "steps").glob("*.py")
    found = set[str]().union(*map(imported, modules)) - sys.stdlib_module_names
    assert found == {"gemma3build", "msgspec"}
    for path in (PACKAGE / "steps").glob("[a-z]*/__init__.py"):
        requirements = CONTAINERS_DIR / path.parent.name / "requirements.in"
        assert path.parent.name == "shared" or "msgspec==" in requirements.read_text()
