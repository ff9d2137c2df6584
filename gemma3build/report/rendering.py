"""How templates become pages and model cards, and how everything in a page is escaped."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gemma3build.release.manifest import LEGAL_DIR
from gemma3build.schema.evaluation import flag
from gemma3build.util.serialize import encode
from gemma3build.util.text import decimal, escape_control_chars, megabytes, significant

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
NOTICE = LEGAL_DIR / "Notice"


def environment(
    folder: Path = TEMPLATES, *, html: bool = True, **filters: Callable[..., object]
) -> "Environment":
    """Return a renderer of templates; it imports Jinja, which a build with nothing to do never needs.

    Args:
        folder: where the templates are.
        html: whether every value is plain text to escape, as in a page; Markdown has its own rules.
        filters: what templates may call, in addition to the filters that all of them share.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def clean(value: object) -> object:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return escape_control_chars(str(value)) if plain else value

    found = Environment(
        autoescape=html,  # noqa: S701 - off for Markdown, which the Hub renders and cleans
        finalize=clean if html else None,
        keep_trailing_newline=True,
        loader=FileSystemLoader(folder, encoding="utf-8"),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    shared: dict[str, Callable[..., object]] = {
        "counted": counted,
        "decimal": decimal,
        "encode": encode,
        "flag": flag,
        "megabytes": megabytes,
        "significant": significant,
    }
    found.filters.update(shared | filters)
    return found


def notice() -> list[str]:
    """Return the paragraphs about Gemma's terms that every page shows."""
    return NOTICE.read_text(encoding="utf-8").split("\n\n")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 run``, ``1,838 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
