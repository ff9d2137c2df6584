"""A matplotlib figure as SVG to stand inside a page, in the page's own colours and letters."""

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gemma3build.record.readable import visible

DPI = 72  # one point is one pixel
TEXT: Final = 11.0  # pixels
# Colours that no drawing has by accident, and what the page calls them.
INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES_PREFIX = "#0500"  # two digits follow
NAMES = {INK: "ink", MUTED: "muted", GRID: "line", SURFACE: "surface"}
# Keys are typed one by one, and differently in each version of matplotlib.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": TEXT,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollars is no formula
}


def svg(draw: Callable[[int], Figure], width: int, label: str) -> str:
    """Return what ``draw`` makes of ``width`` in pixels; ``label`` says the same in words."""
    label = visible(label)
    target = io.StringIO()
    # Whatever a person has set for their own drawings must not show here, nor the other way round.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # Identifiers are unique on the page only if they differ between charts and widths.
        matplotlib.rcParams["svg.hashsalt"] = f"{width} {label}"
        # The reader's browser has the glyph, or says so itself.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
        draw(width).savefig(target, format="svg", transparent=True, metadata=nothing)
    return inline(target.getvalue(), label)


def inline(drawing: str, label: str) -> str:
    """Return a drawing's SVG as an element of the page."""
    drawing = drawing[drawing.index("<svg") :].strip()
    drawing = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing))
    drawing = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", drawing)
    drawing = re.sub(r"font-family: [^;\"]+", "font-family: inherit", drawing)
    # The shorthand, as some versions write it.
    drawing = re.sub(r"font: ([\w. ]*?)([\d.]+px) [^;\"]+", r"font-size: \2", drawing)
    for colour, name in NAMES.items():
        drawing = drawing.replace(colour, f"var(--{name})")
    drawing = re.sub(
        rf"{SERIES_PREFIX}(\d\d)", lambda found: f"var(--series-{int(found[1])})", drawing
    )
    drawing = re.sub(
        r'(<svg[^>]*?) width="([\d.]+)pt" height="([\d.]+)pt"', r'\1 width="\2"', drawing
    )
    drawing = re.sub(r"\n\s*", " ", drawing).replace("> <", "><")
    name = html.escape(label, quote=True)
    return drawing.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def new_figure(width: int, height: int) -> Figure:
    """Return an empty figure of a size in pixels."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def new_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return axes at a place in pixels, with the two lines that are needed."""
    across, up = figure.get_size_inches() * DPI
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, pad=6)
    return axes
