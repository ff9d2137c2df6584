"""Build the docs as a site: ``nox -s docs``.

The pages of ``docs/`` are copied to ``build/docs/`` together with some files of the root, links
between them are rewritten, and marked places are filled in from the code. Then zensical builds
``build/site/`` and fails on any broken link or anchor. A page that loads something from the network
is an error, too.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from posixpath import join, normpath, relpath
from typing import Any

from gemma3build.schema.manifest import schema

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STAGE, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
# Pages of the site that are files of the root, so that those find them who read the repository.
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "development/changelog.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "SECURITY.md": "concepts/threat-model.md",
}
REMOTE = re.compile(r'<(?:iframe|img|link|script)\b[^>]*(?:href|src)="(?:https?:)?//')
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
    # A list needs a blank line before it. Lists of commands are cut short, and the contents have them.
    text = re.sub(r"^Examples:\n", "Examples:\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+", "", text)
    return f"**Usage**{text}"


def manifest() -> str:
    """Return tables of all that a manifest holds, a section for each kind of object."""
    return "\n".join(section(name, node) for name, node in schema()["$defs"].items())


def section(name: str, node: Mapping[str, Any]) -> str:
    """Return the table of one kind of object."""
    lines = [f"## {name}", "", node["description"].replace("``", "`"), ""]
    lines += ["| field | what it is | value |", "|---|---|---|"]
    for field, value in node["properties"].items():
        text = value.get("description", "").replace("``", "`")
        optional = "" if field in node["required"] else "; optional"
        lines.append(f"| `{field}` | {text} | {kind(value)}{optional} |")
    return "\n".join([*lines, ""])


def kind(node: Mapping[str, Any]) -> str:
    """Return what a value can be, in words."""
    if "$ref" in node:
        target = node["$ref"].rpartition("/")[2]
        return f"[{target}](#{target.lower()})"
    if "anyOf" in node:
        return " or ".join(map(kind, node["anyOf"]))
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "items" in node:
        return f"list of {kind(node['items'])}"
    if isinstance(node.get("additionalProperties"), Mapping):
        return f"object with values: {kind(node['additionalProperties'])}"
    words = [node.get("type", "any value")]
    words += [f"{key} {node[key]}" for key in ("minimum", "maximum") if key in node]
    return ", ".join(words)


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
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("The docs cannot be built.")
    for page in SITE.rglob("*.html"):
        if found := REMOTE.search(page.read_text(encoding="utf-8")):
            sys.exit(f"{page} would load from the network: {found[0]}")
    print(f"The docs are in {SITE.relative_to(ROOT)}/index.html")
