"""Which source files a step runs, so that editing one step leaves the others' results valid."""

import ast
import functools
from collections.abc import Iterable, Mapping

PACKAGE = "gemma3build"
ENTRY = f"{PACKAGE}.steps.__main__"


def step_sources(module: str, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules that a step imports, itself and the entry point included, ordered.

    Args:
        module: a module of ``gemma3build.steps``.
        texts: source text by dotted module name.
    """
    found: set[str] = set()
    pending = [f"{PACKAGE}.steps.{module}", ENTRY]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending.extend(imports(texts[name], texts))
    return tuple(sorted(found))


def imports(text: str, known: Iterable[str]) -> frozenset[str]:
    """Return the modules of ``known`` that a source text imports."""
    return _imported(text).intersection(known)


@functools.cache
def _imported(text: str) -> frozenset[str]:
    """Return every name that a source text may import; most texts belong to several steps."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)
