"""Geometry of the page's drawings: bars with whiskers, and a plot of all models by two scores.

The markup is in ``templates/drawings.html``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gritlm.evaluation.bootstrap import Estimate

WIDTH = 400  # of the plot, in units of its view box
HEIGHT = 300

_COLOURS = 8  # classes m0 to m7 of the style sheet
_LEFT = 44
_RIGHT = 14
_TOP = 14
_BOTTOM = 40


@dataclass(frozen=True)
class Bar:
    """Bar of a score.

    Attributes:
        width: width on a scale from 0 to 100.
        whisker: path of the interval; empty without one.
    """

    width: str
    whisker: str


@dataclass(frozen=True)
class Point:
    """Model in the plot.

    Attributes:
        name: name of the model.
        position: position of the model in the report, which selects its colour.
        across: horizontal score; None for a model without it.
        up: vertical score; None for a model without it.
    """

    name: str
    position: int
    across: Estimate | None
    up: Estimate | None


@dataclass(frozen=True)
class Tick:
    """Line of the grid with its value.

    Attributes:
        line: path of the line.
        value: value written at the line.
        place: attributes that place the value.
    """

    line: str
    value: str
    place: dict[str, str]


@dataclass(frozen=True)
class Mark:
    """Drawing of a model in the plot.

    Attributes:
        colour: colour class of the model.
        lines: path of the intervals; for a model with one score, of a dashed line at this score.
        dot: attributes of the centre of the dot; empty for a model with one score.
        label: text next to the mark.
        place: attributes that place the text.
    """

    colour: str
    lines: str
    dot: dict[str, str]
    label: str
    place: dict[str, str]


@dataclass(frozen=True)
class Plane:
    """Plot of models by two scores.

    Attributes:
        across: name of the horizontal score.
        up: name of the vertical score.
        ticks: grid of both axes.
        marks: drawing of each model.
        middle: middle of the area between the axes.
    """

    across: str
    up: str
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    middle: tuple[float, float]


def colour(position: int) -> str:
    """Return the colour class of a model by its position."""
    return f"m{position % _COLOURS}"


def bar(estimate: Estimate) -> Bar:
    """Return the bar of a score, with a whisker for its interval."""
    whisker = ""
    if estimate.low is not None and estimate.high is not None:
        low = _within(estimate.low)
        high = _within(estimate.high)
        whisker = f"M{low:.2f} 6H{high:.2f}M{low:.2f} 2.5V9.5M{high:.2f} 2.5V9.5"
    return Bar(f"{_within(estimate.value):.2f}", whisker)


def plane(points: Sequence[Point], *, across: str, up: str) -> Plane:
    """Return a plot of models by two scores; a model with a single score is a dashed line."""
    x = _Axis([p.across for p in points if p.across], _LEFT, WIDTH - _RIGHT)
    y = _Axis([p.up for p in points if p.up], HEIGHT - _BOTTOM, _TOP)
    marks = (_mark(point, x, y) for point in points)
    return Plane(
        across,
        up,
        (*_ticks_across(x, y), *_ticks_up(x, y)),
        tuple(mark for mark in marks if mark is not None),
        ((_LEFT + WIDTH - _RIGHT) / 2, (_TOP + HEIGHT - _BOTTOM) / 2),
    )


class _Axis:
    """Axis that maps scores to pixels, with ticks every 5, 10 or 20 around the given scores."""

    def __init__(self, shown: Sequence[Estimate], start: float, end: float) -> None:
        values = [v for e in shown for v in (e.value, e.low, e.high) if v is not None]
        spread = max(values) - min(values)
        self.step = 5 if spread < 12 else 10 if spread < 40 else 20
        self.low = max(0, self.step * (min(values) // self.step) - self.step * (spread < 5))
        self.high = min(100, self.step * (max(values) // self.step + 1))
        self.start = start
        self.end = end

    def at(self, value: float) -> float:
        part = (value - self.low) / max(self.high - self.low, self.step)
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        count = int((self.high - self.low) // self.step)
        return [self.low + self.step * i for i in range(count + 1)]


def _ticks_across(x: _Axis, y: _Axis) -> list[Tick]:
    return [
        Tick(
            f"M{x.at(value):.1f} {y.start:.1f}V{y.end:.1f}",
            f"{value:.0f}",
            _place(x.at(value), y.start + 15, "middle"),
        )
        for value in x.ticks()
    ]


def _ticks_up(x: _Axis, y: _Axis) -> list[Tick]:
    return [
        Tick(
            f"M{x.start:.1f} {y.at(value):.1f}H{x.end:.1f}",
            f"{value:.0f}",
            _place(x.start - 5, y.at(value) + 4, "end"),
        )
        for value in y.ticks()
    ]


def _mark(point: Point, x: _Axis, y: _Axis) -> Mark | None:
    """Return the mark of a model; None for a model without scores."""
    if point.across is not None and point.up is not None:
        return _cross(point, point.across, point.up, x, y)
    shade = colour(point.position)
    if point.across is not None:
        at = x.at(point.across.value)
        flip = at > (x.start + x.end) / 2
        turn = f"translate({at + (-14 if flip else 6):.1f} {y.end + 4:.1f}) rotate(90)"
        line = f"M{at:.1f} {y.start:.1f}V{y.end:.1f}"
        return Mark(shade, line, {}, f"{point.name} (embeds only)", {"transform": turn})
    if point.up is not None:
        at = y.at(point.up.value)
        line = f"M{x.start:.1f} {at:.1f}H{x.end:.1f}"
        return Mark(shade, line, {}, f"{point.name} (writes only)", _place(x.start + 5, at - 5))
    return None


def _cross(point: Point, across: Estimate, up: Estimate, x: _Axis, y: _Axis) -> Mark:
    """Return the mark of a model with both scores: a dot with its intervals as a cross."""
    left = x.at(across.value)
    top = y.at(up.value)
    lines = ""
    if across.low is not None and across.high is not None:
        lines += f"M{x.at(across.low):.1f} {top:.1f}H{x.at(across.high):.1f}"
    if up.low is not None and up.high is not None:
        lines += f"M{left:.1f} {y.at(up.low):.1f}V{y.at(up.high):.1f}"
    flip = left > x.start + 0.65 * (x.end - x.start)
    anchor, shift = ("end", -9) if flip else ("start", 9)
    lower = 18 if point.position % 2 else -8  # names of neighbours do not overlap
    dot = {"cx": f"{left:.1f}", "cy": f"{top:.1f}"}
    place = _place(left + shift, top + lower, anchor)
    return Mark(colour(point.position), lines, dot, point.name, place)


def _place(x: float, y: float, anchor: str = "") -> dict[str, str]:
    """Return the attributes that place a text."""
    at = {"x": f"{x:.1f}", "y": f"{y:.1f}"}
    return {**at, "text-anchor": anchor} if anchor else at


def _within(value: float) -> float:
    return min(100.0, max(0.0, value))
