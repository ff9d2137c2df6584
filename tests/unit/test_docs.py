"""What the docs list is what the code has."""

import ast
import dataclasses
import re
from pathlib import Path

from gemma3build.core.scheme import Limits
from gemma3build.errors import FLAW_EXIT_CODES, REFUSAL_EXIT_CODES, BuildError
from gemma3build.pins.intent import load_schemes

ROOT = Path(__file__).parents[2]


def test_every_exit_code_is_documented() -> None:
    def codes(kind: type[BuildError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(child) for child in kind.__subclasses__()))

    text = (ROOT / "docs" / "exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    of_kinds = {*REFUSAL_EXIT_CODES.values(), *FLAW_EXIT_CODES.values()}
    assert documented == codes(BuildError) | of_kinds | {0, 2}


def test_the_defaults_of_limits_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "schemes.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+|any) \|$", text, re.MULTILINE)
    expected = {
        field.name: "any" if field.default is None else str(field.default)
        for field in dataclasses.fields(Limits)
    }
    assert dict(rows) == expected


def test_every_scheme_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"| `{name}` |" in text for name in load_schemes())


def test_every_fault_names_a_test_that_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text()))
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    found = {
        name for text in sources for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    }
    assert len(named) > 20
    assert named <= found


def may_import() -> dict[str, set[str]]:
    """Return what each part of the package may import, as the table of docs/architecture.md has it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found: dict[str, set[str]] = {}
    for parts, allowed in re.findall(r"^\| (`.*?) \| .* \| (.*) \|$", text, re.MULTILINE):
        row = names(parts)
        above = {*found} if "all above" in allowed else names(allowed)
        found |= dict.fromkeys(row, row | above)
    return found


def names(cell: str) -> set[str]:
    return {name.removesuffix(".py").rstrip("/") for name in re.findall(r"`(.+?)`", cell)}


def imported(path: Path) -> set[str]:
    """Return what a module imports of this package, without the package's own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    own = "gemma3build."
    return {name.removeprefix(own) for name in found if name.startswith(own)} - {"__version__"}


def test_nothing_imports_what_the_table_of_parts_does_not_let_it() -> None:
    allowed, package = may_import(), ROOT / "gemma3build"
    modules = {path: path.relative_to(package).parts[0] for path in package.rglob("*.py")}
    own = {path: part.removesuffix(".py") for path, part in modules.items() if part[0] != "_"}
    assert set(own.values()) == set(allowed)
    assert [
        f"{path.relative_to(package)} imports {name}"
        for path, part in own.items()
        for name in imported(path)
        if not any(f"{name}.".startswith(f"{start}.") for start in allowed[part])
    ] == []


def test_links_between_documents_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("artifacts/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
