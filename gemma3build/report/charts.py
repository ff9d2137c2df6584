"""The charts of the pages: where their bars, marks, ticks and labels go.

``charts.html.j2`` draws them as SVG. Places across are in percent and places down are in pixels, so
one drawing fits a phone and a desktop, and its text keeps its size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gemma3build.schema.evaluation import SchemeEvaluation
from gemma3build.util.text import MEGABYTE, power_of_ten, significant

COLOURS = 8  # --series-0 to --series-7 in style.css
# Paths of 8 pixels around the origin. There are seven, so colour and shape together tell 56 schemes apart.
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-4-4h8v8h-8z",
    "M0-5.2l5.2 5.2l-5.2 5.2l-5.2-5.2z",
    "M-4.6 4h9.2l-4.6-8.2z",
    "M-4.6-4h9.2l-4.6 8.2z",
    "M-1.6-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "M0-2.3l2.3-2.3l2.3 2.3l-2.3 2.3l2.3 2.3l-2.3 2.3l-2.3-2.3l-2.3 2.3l-2.3-2.3l2.3-2.3l-2.3-2.3l2.3-2.3z",
)
QUALITY_HEIGHT = 260  # pixels
MARK_GAP, SMALLEST_ROW = 6, 22  # pixels; schemes of one prompt are drawn below one another
MOST_TICKS = 5  # intervals of an axis; the labels of more would overlap on a phone
PROMPT_LENGTH = 16  # characters of a prompt's name
# Nats per token. A smaller divergence is float32 noise, and zero has no logarithm. In a larger one nothing agrees.
KL_FLOOR, KL_CEILING = 1e-9, 1e2


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A scheme as the charts show it: its name, the number of its colour, and the path of its mark."""

    name: str
    colour: int
    shape: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar: ``share`` is its length, 1 for the longest; ``label`` is its value as text."""

    series: Series
    share: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """A bar for each scheme; ``title`` names the unit, and ``note`` says how to read it."""

    title: str
    note: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A labelled place of an axis: in percent from the left, or in pixels from the top."""

    place: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A measured point.

    Attributes:
        series: the scheme.
        x: percent from the left.
        y: pixels from the top.
        error: half the length of its error bar, in pixels; 0 for none.
        label: its values as text.
    """

    series: Series
    x: float
    y: float
    error: float = 0
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Points of several schemes between two axes.

    Attributes:
        title: what it shows.
        note: how to read it.
        summary: its values as text, for readers who do not see it.
        series: the schemes, for the legend.
        height: between the axes, in pixels.
        x_label: quantity and unit of the horizontal axis.
        y_label: the same of the vertical axis; empty where its ticks are names.
        x_ticks: places of the vertical lines.
        y_ticks: places of the labels at the left.
        rules: places of the horizontal lines, in pixels from the top.
        breaks: places where the horizontal axis leaves its scale, in percent from the left.
        marks: the points.
    """

    title: str
    note: str
    summary: str
    series: tuple[Series, ...]
    height: int
    x_label: str
    y_label: str = ""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rules: tuple[float, ...]
    breaks: tuple[float, ...] = ()
    marks: tuple[Mark, ...]


def bar_chart(
    title: str, note: str, names: Sequence[str], values: Sequence[float | None]
) -> BarChart:
    """Return a bar for each scheme that has a value."""
    longest = max((value for value in values if value is not None), default=0) or 1
    bars = tuple(
        Bar(series=item, share=value / longest, label=f"{value:,.{0 if value >= 100 else 1}f}")  # noqa: PLR2004 - three digits are enough
        for item, value in zip(make_series(names), values, strict=True)
        if value is not None
    )
    return BarChart(title=title, note=note, bars=bars)


def quality_plot(note: str, schemes: Sequence[SchemeEvaluation]) -> Plot:
    """Return size against PIQA accuracy, for the schemes that have one; at least one has."""
    series = make_series([item.scheme for item in schemes])
    points = [
        (item, scheme.model.size / MEGABYTE, scheme.piqa)
        for item, scheme in zip(series, schemes, strict=True)
        if scheme.piqa
    ]
    sizes = [size for _, size, _ in points]
    margin = max(0.12 * (max(sizes) - min(sizes)), 1)
    left, right = max(min(sizes) - margin, 0), max(sizes) + margin
    low = min(piqa.acc - piqa.acc_stderr for *_, piqa in points)
    high = max(piqa.acc + piqa.acc_stderr for *_, piqa in points)
    margin = max(0.1 * (high - low), 0.005)
    low, high = low - margin, high + margin
    pixels = QUALITY_HEIGHT / (high - low)  # for an accuracy of 1
    marks = tuple(
        Mark(
            series=item,
            x=100 * (size - left) / (right - left),
            y=(high - piqa.acc) * pixels,
            error=piqa.acc_stderr * pixels,
            label=f"{item.name}: {size:,.0f} MB, {piqa.acc:.3f} ± {piqa.acc_stderr:.3f}",
        )
        for item, size, piqa in points
    )
    y_ticks = tuple(
        Tick(place=(high - value) * pixels, label=f"{value:.2f}")
        for value in round_numbers(low, high, finest=0.01)
    )
    return Plot(
        title="Size and PIQA accuracy",
        note=note,
        summary="; ".join(mark.label for mark in marks),
        series=tuple(item for item, *_ in points),
        height=QUALITY_HEIGHT,
        x_label="Model size, MB",
        y_label="Accuracy",
        x_ticks=tuple(
            Tick(place=100 * (value - left) / (right - left), label=f"{value:,.0f}")
            for value in round_numbers(left, right, finest=1)
        ),
        y_ticks=y_ticks,
        rules=tuple(tick.place for tick in y_ticks),
        marks=marks,
    )


def parity_plot(schemes: Sequence[SchemeEvaluation]) -> Plot:
    """Return the divergence from the checkpoint on each prompt, by scheme."""
    series = make_series([item.scheme for item in schemes])
    prompts = list(dict.fromkeys(p.name for s in schemes for p in s.gate.prompts))
    row = max(SMALLEST_ROW, MARK_GAP * len(schemes) + 10)
    ticks, breaks = decades([exponent(p.agreement.kl) for s in schemes for p in s.gate.prompts])
    least, most = min(ticks), max(ticks)

    def across(place: float) -> float:
        return 3 + 94 * (place - least) / (most - least)

    marks = tuple(
        Mark(
            series=item,
            x=across(min(max(exponent(prompt.agreement.kl), least), most)),
            y=row * (prompts.index(prompt.name) + 0.5) + MARK_GAP * (rank - (len(schemes) - 1) / 2),
            label=f"{item.name}, {prompt.name}: {significant(prompt.agreement.kl)} nats per token",
        )
        for rank, (item, scheme) in enumerate(zip(series, schemes, strict=True))
        for prompt in scheme.gate.prompts
    )
    return Plot(
        title="KL divergence from the checkpoint, by prompt",
        note="In nats per token, on a logarithmic scale. Left is better.",
        summary="; ".join(
            f"{s.scheme}: mean {significant(s.gate.agreement.kl)}"
            for s in schemes
            if s.gate.agreement
        ),
        series=series,
        height=row * len(prompts),
        x_label="KL divergence, nats per token",
        x_ticks=tuple(Tick(place=across(place), label=label) for place, label in ticks.items()),
        y_ticks=tuple(
            Tick(place=row * (place + 0.5), label=shorten(name))
            for place, name in enumerate(prompts)
        ),
        rules=tuple(row * place for place in range(1, len(prompts))),
        breaks=tuple(map(across, breaks)),
        marks=marks,
    )


def make_series(names: Sequence[str]) -> tuple[Series, ...]:
    """Return how schemes are shown, by their rank: the same in every chart of a page."""
    return tuple(
        Series(name=name, colour=rank % COLOURS, shape=SHAPES[rank % len(SHAPES)])
        for rank, name in enumerate(names)
    )


def round_numbers(low: float, high: float, finest: float) -> list[float]:
    """Return evenly spaced round numbers between two: few, and no closer than ``finest``."""
    least = max((high - low) / MOST_TICKS, finest)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= 0.999 * least)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def exponent(value: float) -> float:
    """Return the logarithm of a divergence; infinite where it is outside of the scale."""
    if math.isnan(value) or value >= KL_CEILING:
        return math.inf
    return math.log10(value) if value >= KL_FLOOR else -math.inf


def decades(exponents: Sequence[float]) -> tuple[dict[float, str], list[float]]:
    """Return evenly spaced powers of ten with their labels, and where the scale breaks.

    Below and above a break there is one place for everything that is outside of the scale.
    """
    inside = [value for value in exponents if math.isfinite(value)] or [math.log10(KL_FLOOR)]
    low, high = math.floor(min(inside)), math.ceil(max(inside))
    step = max(math.ceil((high - low) / MOST_TICKS), 1)
    low = min(high - step * math.ceil((high - low) / step), high - step)
    ticks: dict[float, str] = {place: power_of_ten(place) for place in range(low, high + 1, step)}
    breaks = []
    if -math.inf in exponents:
        ticks[low - step] = "≈ 0"
        breaks.append(low - step / 2)
    if math.inf in exponents:
        ticks[high + step] = f"> {KL_CEILING:.0f}"
        breaks.append(high + step / 2)
    return ticks, breaks


def shorten(name: str) -> str:
    """Return a name of a prompt, cut where it is too long."""
    return name if len(name) <= PROMPT_LENGTH else f"{name[: PROMPT_LENGTH - 1]}…"
