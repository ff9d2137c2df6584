"""Build the docs as a site: ``nox -s docs``.

The pages of ``docs/`` are copied to ``build/docs/`` together with some files of the root, links
between them are rewritten, and marked places are filled in from the code. Then zensical builds
``build/site/`` and fails on any broken link or anchor.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from posixpath import join, normpath, relpath
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STAGE, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
SCHEMA = ROOT / "gemma3build" / "schema" / "manifest.schema.json"
# Pages of the site that are files of the root, so that those find them who read the repository.
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "development/changelog.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "SECURITY.md": "concepts/threat-model.md",
}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")  # up to an anchor


def pages() -> dict[str, str]:
    """Return where each page is on the site, by its path in the repository."""
    ours = {path.relative_to(ROOT).as_posix(): path for path in DOCS.rglob("*") if path.is_file()}
    return ROOT_PAGES | {name: name.removeprefix("docs/") for name in sorted(ours)}


def relink(text: str, source: str, places: Mapping[str, str]) -> str:
    """Return a page with links that fit the site.

    Args:
        text: the page.
        source: its path in the repository.
        places: what ``pages`` returns.
    """

    def moved(link: re.Match[str]) -> str:
        target = normpath(join(source, "..", link[1]))
        place = places.get(target, target)  # zensical refuses what is no page
        return f"]({relpath(place, join(places[source], '..'))}"

    return LINK.sub(moved, text)


def commands() -> str:
    """Return the reference of all commands, below the title of its page."""
    command = [sys.executable, "-m", "typer", "gemma3build.cli.app", "utils", "docs"]
    done = subprocess.run(
        [*command, "--name", "gemma3build"], check=True, capture_output=True, text=True
    )
    _, _, text = done.stdout.partition("\n**Usage**")
    # A list needs a blank line before it. Brackets are defaults here, and no links.
    text = re.sub(r"^(Examples:)\n", r"\1\n\n", f"**Usage**{text}", flags=re.MULTILINE)
    return re.sub(r"(?<!`)\[(?=[^\]\n]*\](?!`))", r"\\[", text)


def manifest() -> str:
    """Return tables of all that a manifest holds, a section for each kind of object."""
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return "\n".join(section(name, node) for name, node in objects("manifest", schema))


def objects(name: str, node: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return all objects with named fields in a schema, outermost first."""
    found = [(name, node)] if "properties" in node else []
    inner = {**node.get("properties", {}), **node.get("$defs", {})}
    inner |= {name: node[key] for key in ("items", "additionalProperties") if key in node}
    for key, value in inner.items():
        if isinstance(value, Mapping):
            found += objects(key, value)
    return found


def section(name: str, node: Mapping[str, Any]) -> str:
    """Return the table of one object."""
    lines = [f"## {name}", "", "| field | what it is |", "|---|---|"]
    required = node.get("required", ())
    for field, value in node["properties"].items():
        optional = "" if field in required else "; optional"
        lines.append(f"| `{field}` | {kind(field, value)}{optional} |")
    return "\n".join([*lines, ""])


def kind(name: str, node: Mapping[str, Any]) -> str:
    """Return what a field holds, in words."""
    if "$ref" in node:
        target = node["$ref"].rpartition("/")[2]
        return f"[{target}](#{target.lower()})"
    if "properties" in node:
        return f"[{name}](#{name})"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if node.get("type") == "array":
        return f"list: {kind(name, node['items'])}"
    if isinstance(node.get("additionalProperties"), Mapping):
        return f"map: {kind(name, node['additionalProperties'])}"
    words = [str(node.get("type", "any value"))]
    words += [f"{key} {node[key]}" for key in ("minimum", "maximum") if key in node]
    words += [f"`{node['pattern']}`"] if "pattern" in node else []
    return ", ".join(words).replace("|", "\\|")


GENERATED = {"<!-- commands -->": commands, "<!-- manifest -->": manifest}


def stage() -> None:
    """Write all pages to ``build/docs/``."""
    shutil.rmtree(STAGE, ignore_errors=True)
    places = pages()
    for source, place in places.items():
        target = STAGE / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix != ".md":
            shutil.copyfile(ROOT / source, target)
            continue
        text = relink((ROOT / source).read_text(encoding="utf-8"), source, places)
        for marker, make in GENERATED.items():
            if marker in text:
                text = text.replace(marker, make())
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    stage()
    shutil.rmtree(SITE, ignore_errors=True)
    command = ["zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, check=False)
    sys.exit(done.returncode or print(f"The docs are in {SITE.relative_to(ROOT)}/index.html"))
