"""What the docs list is what the code has."""

import dataclasses
import re
from pathlib import Path

from gemma3build.errors import FLAW_EXIT_CODES, REFUSAL_EXIT_CODES, BuildError
from gemma3build.pins.config import load_schemes
from gemma3build.schema.scheme import Limits

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


def test_links_between_documents_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("artifacts/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
