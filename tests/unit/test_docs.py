"""The docs list what the code has."""

import re
import tomllib
from pathlib import Path

from msgspec import structs

from gemma3build.errors import ErrorCode
from gemma3build.pins.config import load_schemes
from gemma3build.schema.scheme import Limits
from tools.build_docs import pages, relink

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("artifacts/*.md"))
# Paths in pages are relative to the package or to the repository.
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/[\w.-]+\.(?:py|toml|json|txt))`")


def test_every_exit_code_is_documented() -> None:
    table, _, old = (DOCS / "reference" / "exit-codes.md").read_text().partition("\n## ")
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
    text = (DOCS / "reference" / "schemes.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+|any) \|$", text, re.MULTILINE)
    expected = {
        field.name: "any" if field.default is None else str(field.default)
        for field in structs.fields(Limits)
    }
    assert dict(rows) == expected


def test_every_scheme_is_documented() -> None:
    text = (DOCS / "reference" / "schemes.md").read_text()
    assert all(f"| `{name}` |" in text for name in load_schemes())


def test_every_fault_names_a_test_that_is_there() -> None:
    named = set(
        re.findall(r"`(test_\w+)`", (DOCS / "development" / "fault-injection.md").read_text())
    )
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    found = {
        name for text in sources for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    }
    assert len(named) > 20
    assert named <= found


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_path_that_a_page_names_is_there() -> None:
    named = {(page.name, path) for page in PAGES for path in PATH.findall(page.read_text())}
    assert len(named) > 50
    for page, path in named:
        found = any((root / path).is_file() for root in (ROOT, ROOT / "gemma3build"))
        assert found, f"{page}: {path}"


def test_every_page_that_the_code_names_is_there() -> None:
    texts = [path.read_text() for path in (ROOT / "gemma3build").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"docs/[\w/-]+\.md", text)}
    assert len(named) > 5
    assert all((ROOT / name).is_file() for name in named)


def test_every_error_that_a_page_names_is_one() -> None:
    named = {name for page in PAGES for name in re.findall(r"errors? `(\w+)`", page.read_text())}
    assert len(named) > 10
    assert named <= set(ErrorCode)


def test_links_are_moved_with_their_pages_and_keep_their_anchors() -> None:
    places = {"README.md": "index.md", "SECURITY.md": "concepts/threat.md", "docs/a/b.md": "a/b.md"}
    text = "[a](docs/a/b.md#c) [b](SECURITY.md) [c](#d) [d](https://example.com/e.md)"
    expected = "[a](a/b.md#c) [b](concepts/threat.md) [c](#d) [d](https://example.com/e.md)"
    assert relink(text, "README.md", places) == expected
    assert relink("![p](../../SECURITY.md)", "docs/a/b.md", places) == "![p](../concepts/threat.md)"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text())
    places = {
        place
        for part in config["project"]["nav"]
        for entry in part.values()
        for place in ([entry] if isinstance(entry, str) else entry)
    }
    assert places == {place for place in pages().values() if place.endswith(".md")}


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 140
