"""What the docs list is what the code has."""

import re
from pathlib import Path

from msgspec import structs

from gemma3build.errors import ErrorCode
from gemma3build.pins.config import load_schemes
from gemma3build.schema.scheme import Limits

ROOT = Path(__file__).parents[2]


def test_every_exit_code_is_documented() -> None:
    table, _, old = (ROOT / "docs" / "exit-codes.md").read_text().partition("\n## ")
    rows = re.findall(r"^\| (\d+) \|(.*?)\|", table, re.MULTILINE)
    documented = {
        name: int(number) for number, names in rows for name in re.findall(r"`(\w+)`", names)
    }
    assert {int(number) for number, _ in rows} == {0, 2, *documented.values()}
    assert documented == {code.value: code.exit_code for code in ErrorCode}
    moved = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|$", old, re.MULTILINE)
    assert len(moved) == 39  # and one is gone
    assert all(documented[name] == int(now) != int(before) for before, now, name in moved)


def test_the_defaults_of_limits_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "schemes.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+|any) \|$", text, re.MULTILINE)
    expected = {
        field.name: "any" if field.default is None else str(field.default)
        for field in structs.fields(Limits)
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
