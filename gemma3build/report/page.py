"""What the pages of this project share: templates, and how everything in them is escaped."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gemma3build.release.manifest import LEGAL_DIR
from gemma3build.schema.evaluation import flag
from gemma3build.util.serialize import encode
from gemma3build.util.text import decimal, escape_control_chars, megabytes

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
NOTICE = LEGAL_DIR / "Notice"


def environment(**filters: Callable[..., object]) -> "Environment":
    """Return what renders the templates of pages; all that they are given is text, and escaped.

    Jinja is imported here and not before: a build with nothing to do should start as fast as it can.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def clean(value: object) -> object:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return escape_control_chars(str(value)) if plain else value

    found = Environment(
        autoescape=True,
        finalize=clean,
        keep_trailing_newline=True,
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
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
        "safe_svg": Markup,  # of report.charts, which escapes what it is given
    }
    found.filters.update(shared | filters)
    return found


def notice() -> list[str]:
    """Return the paragraphs about Gemma's terms that stand on every page."""
    return NOTICE.read_text(encoding="utf-8").split("\n\n")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 run``, ``1,838 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
