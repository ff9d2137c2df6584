"""The charts of the report, as SVG to stand inside HTML.

Those with room to use are drawn twice, for a phone and for a desk, because text in a picture that
shrinks with the screen cannot be read there. Colours are written as CSS variables of the page, which knows light from dark.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gemma3build.schema.evaluation import SchemeEvaluation
from gemma3build.util.text import MEGABYTE, escape_control_chars, power_of_ten

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
    label = escape_control_chars(label)
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


NARROW, WIDE = 304, 760  # pixels, where text has the size that it should have
SERIES = 8  # colours; markers repeat after seven, so that 56 schemes differ by one or the other
MARKERS = "osD^vPX"
# Nats. Less is the noise of float32, and zero has no logarithm; more means that nothing agrees.
KL_FLOOR, KL_CEILING = 1e-9, 1e2
LONGEST_TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart for the page.

    Attributes:
        title: what it shows, with units.
        note: how to read it.
        narrow: SVG for a phone.
        wide: SVG for a desk; empty where it is the same.
    """

    title: str
    note: str
    narrow: str
    wide: str


def quality_chart(note: str, schemes: Sequence[SchemeEvaluation]) -> Chart:
    """Return size against PIQA accuracy, for those schemes where it was measured."""
    ranks = [rank for rank, item in enumerate(schemes) if item.piqa]
    values = "; ".join(
        f"{item.scheme}: {item.model.size / MEGABYTE:,.0f} MB, {item.piqa.acc:.3f}"
        for item in schemes
        if item.piqa
    )
    return _chart(
        "Size and PIQA accuracy",
        note,
        values,
        lambda width: _quality(schemes, ranks, width),
    )


def bars_chart(
    title: str, note: str, names: Sequence[str], values: Sequence[float | None]
) -> Chart:
    """Return a bar for each scheme that has a value; ``title`` says of what, and in which unit."""
    shown = [(rank, value) for rank, value in enumerate(values) if value is not None]
    label = "; ".join(f"{names[rank]}: {value:,.4g}" for rank, value in shown)
    drawn = svg(lambda width: _bars(names, shown, width), NARROW, f"{title}. {label}")
    return Chart(title=title, note=note, narrow=drawn, wide="")


def parity_chart(schemes: Sequence[SchemeEvaluation]) -> Chart:
    """Return the divergence from the checkpoint on each prompt, by scheme."""
    values = "; ".join(
        f"{s.scheme}: mean {s.gate.agreement.kl:.2g}" for s in schemes if s.gate.agreement
    )
    return _chart(
        "KL divergence from the checkpoint, by prompt",
        "In nats per token, on a logarithmic scale. Left is better.",
        values,
        lambda width: _parity(schemes, width),
    )


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return ``values`` moved apart to at least ``gap``, in their order, from ``low`` to ``high``.

    Where they do not all fit, they go below ``low``.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    places = dict.fromkeys(order, 0.0)
    floor = low
    for i in order:
        places[i] = max(values[i], floor)
        floor = places[i] + gap
    ceiling = high
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return [places[i] for i in range(len(values))]


def _chart(title: str, note: str, values: str, draw: Callable[[int], Figure]) -> Chart:
    label = f"{title}. {values}"
    return Chart(
        title=title,
        note=note,
        narrow=svg(draw, NARROW, label),
        wide=svg(draw, WIDE, label),
    )


def _colour(rank: int) -> str:
    return f"{SERIES_PREFIX}{rank % SERIES:02d}"


def _marker(rank: int) -> str:
    return MARKERS[rank % len(MARKERS)]


def _short(text: str, length: int) -> str:
    line = " ".join(escape_control_chars(text).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _wrap(name: str, length: int) -> str:
    """Return a name in at most two lines, broken after an underscore."""
    name = _short(name, 2 * length)
    cut = max(name[:length].rfind("_") + 1, 0) or length
    return name if len(name) <= length else f"{name[:cut]}\n{_short(name[cut:], length)}"


def _quality(schemes: Sequence[SchemeEvaluation], ranks: Sequence[int], width: int) -> Figure:
    length = 14 if width == NARROW else 28  # characters of a label
    left, right, gap = 44, 7 * length + 10, 26 if width == NARROW else 17
    height = max(250 if width == NARROW else 320, gap * len(ranks) + 60)
    figure = new_figure(width, height)
    axes = new_axes(figure, left, 44, width - left - right, height - 44 - 12)
    points = [(schemes[rank].model.size / MEGABYTE, schemes[rank].piqa) for rank in ranks]
    known = [(x, piqa.acc, piqa.acc_stderr) for x, piqa in points if piqa]
    for rank, (x, y, error) in zip(ranks, known, strict=True):
        axes.errorbar(x, y, error, color=_colour(rank), capsize=3, elinewidth=1.2)
        axes.plot(x, y, _marker(rank), color=_colour(rank), ms=8, mec=SURFACE, mew=1)
    low, high = min(y - e for _, y, e in known), max(y + e for _, y, e in known)
    room = max(0.1 * (high - low), 0.005)
    axes.set_ylim(low - room, high + room)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(3 if width == NARROW else 7, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:.2f}" if high - low > 0.05 else "{x:.3f}")  # noqa: PLR2004
    axes.grid(visible=True)
    axes.set_xlabel("Model size, MB", labelpad=6)
    scale = (height - 56) / (high - low + 2 * room)  # pixels for 1
    ys = [(y - low + room) * scale for _, y, _ in known]
    for rank, (x, y, _), place in zip(ranks, known, spread(ys, gap, 8, height - 64), strict=True):
        axes.annotate(
            _wrap(schemes[rank].scheme, length),
            xy=(x, y),
            xytext=(width - left - right + 12, place),
            textcoords="axes pixels",
            va="center",
            linespacing=1.1,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.7, "shrinkA": 2, "shrinkB": 6},
        )
    return figure


def _bars(names: Sequence[str], shown: Sequence[tuple[int, float]], width: int) -> Figure:
    row = 40  # pixels: a name, and the bar below it
    figure = new_figure(width, row * len(shown) + 8)
    axes = new_axes(figure, 2, 4, width - 2 - 58, row * len(shown))
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(0, max((value for _, value in shown), default=0) or 1)
    axes.set_ylim(row * len(shown), 0)
    for place, (rank, value) in enumerate(shown):
        y = row * place + 26
        axes.barh(y, value, 14, color=_colour(rank))
        name = _short(names[rank], width // 7)
        axes.text(0, y - 12, name, va="bottom", ha="left", color=MUTED)
        digits = 0 if value >= 100 else 1  # noqa: PLR2004
        axes.annotate(
            f"{value:,.{digits}f}",
            (value, y),
            (6, 0),
            textcoords="offset points",
            va="center_baseline",
            weight="bold",
            annotation_clip=False,
        )
    return figure


def _parity(schemes: Sequence[SchemeEvaluation], width: int) -> Figure:
    prompts = list(dict.fromkeys(p.name for s in schemes for p in s.gate.prompts))
    labels = [_short(name, 14 if width == NARROW else 28) for name in prompts]
    left, row = 7 * max(map(len, labels)) + 8, max(20, 6 * len(schemes) + 8)  # pixels
    names = [_short(item.scheme, 40) for item in schemes]
    columns = max(1, width // (7 * max(map(len, names)) + 24))
    tall, key = row * len(prompts), 18 * math.ceil(len(names) / columns) + 10
    figure = new_figure(width, tall + key + 44)
    axes = new_axes(figure, left, 36, width - left - 10, tall)
    axes.set_ylim(len(prompts) - 0.5, -0.5)
    axes.set_yticks(range(len(prompts)), labels, color=INK)
    for place in range(len(prompts) - 1):
        axes.axhline(place + 0.5, color=GRID, lw=0.8)
    low, high = _decades(axes, [p.agreement.kl for s in schemes for p in s.gate.prompts])
    for rank, item in enumerate(schemes):
        # Side by side in the row, else one would hide the other where they agree.
        shift = (rank - (len(schemes) - 1) / 2) * 6 / row
        for prompt in item.gate.prompts:
            x = min(max(_exponent(prompt.agreement.kl), low), high)
            y = prompts.index(prompt.name) + shift
            axes.plot(x, y, _marker(rank), color=_colour(rank), ms=7, mec=SURFACE, mew=0.8)
    axes.set_xlabel("nats per token", labelpad=4)
    _legend(figure, names, columns)
    return figure


def _exponent(value: float) -> float:
    """Return the logarithm of a divergence; infinite where there is none to speak of."""
    if math.isnan(value) or value >= KL_CEILING:
        return math.inf
    return math.log10(value) if value >= KL_FLOOR else -math.inf


def _decades(axes: Axes, values: Sequence[float]) -> tuple[float, float]:
    """Mark powers of ten, not too many, and places of their own for nothing and for too much.

    Returns the places of the smallest and of the largest value.
    """
    found = [_exponent(value) for value in values]
    seen = [exponent for exponent in found if math.isfinite(exponent)] or [-9.0]
    low = math.floor(min(seen))
    high = max(math.ceil(max(seen)), low + 1)
    ticks = list(range(high, low - 1, -math.ceil((high - low + 1) / LONGEST_TICKS)))
    labels = [power_of_ten(exponent) for exponent in ticks]
    if -math.inf in found:
        axes.axvline(low - 0.5, color=MUTED, lw=0.8, ls=(0, (2, 3)))
        low -= 1
        ticks, labels = [*ticks, low], [*labels, "≈ 0"]
    if math.inf in found:
        axes.axvline(high + 0.5, color=MUTED, lw=0.8, ls=(0, (2, 3)))
        high += 1
        ticks, labels = [*ticks, high], [*labels, f"> {KL_CEILING:.0f}"]
    axes.set_xticks(ticks, labels)
    axes.grid(visible=True, axis="x")
    axes.set_xlim(low - 0.02 * (high - low) - 0.1, high + 0.02 * (high - low) + 0.1)
    return low, high


def _legend(figure: Figure, names: Sequence[str], columns: int) -> None:
    handles = [
        Line2D([], [], color=_colour(rank), marker=_marker(rank), ls="", ms=7, mec=SURFACE)
        for rank in range(len(names))
    ]
    figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handletextpad=0.2,
        handlelength=1.2,
        columnspacing=1.2,
    )
