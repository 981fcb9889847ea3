"""Drawings of the page: bars with whiskers, and a plot of all models by two kinds of tasks.

Colours are classes of the page's style sheet, so that a drawing follows light and dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gritlm.evaluation.bootstrap import Estimate

COLOURS = 8  # classes m0 to m7 of the style sheet


def colour(position: int) -> str:
    """Return the colour class of a model by its position."""
    return f"m{position % COLOURS}"


def bar(estimate: Estimate, *, position: int, label: str) -> str:
    """Return a bar on a scale from 0 to 100, with the interval drawn over it."""
    value = _within(estimate.value)
    whisker = ""
    if estimate.low is not None and estimate.high is not None:
        low = _within(estimate.low)
        high = _within(estimate.high)
        whisker = (
            f'<path class="whisker" d="M{low:.2f} 6H{high:.2f}M{low:.2f} 2.5V9.5M{high:.2f} '
            f'2.5V9.5"/>'
        )
    return (
        f'<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<rect class="track" width="100" height="12"/>'
        f'<rect class="{colour(position)}" width="{value:.2f}" height="12"/>{whisker}</svg>'
    )


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


WIDTH = 400
HEIGHT = 300
_LEFT = 44
_RIGHT = 14
_TOP = 14
_BOTTOM = 40


def plane(points: Sequence[Point], *, across: str, up: str) -> str:
    """Return a plot of models by two scores; a model with a single score is a dashed line."""
    x = _Axis([p.across for p in points if p.across], _LEFT, WIDTH - _RIGHT)
    y = _Axis([p.up for p in points if p.up], HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x, y), *(_mark(point, x, y) for point in points)]
    middle_x = (_LEFT + WIDTH - _RIGHT) / 2
    middle_y = (_TOP + HEIGHT - _BOTTOM) / 2
    return (
        f'<svg class="plane" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{up} over {across}")}">{"".join(parts)}'
        f'<text class="axis" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(across)} →</text>"
        f'<text class="axis" transform="translate(12 {middle_y}) rotate(-90)" '
        f'text-anchor="middle">{escape(up)} →</text></svg>'
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


def _grid(x: _Axis, y: _Axis) -> str:
    parts = []
    for value in x.ticks():
        at = x.at(value)
        line = f"M{at:.1f} {y.start:.1f}V{y.end:.1f}"
        parts.append(_tick(line, (at, y.start + 15), "middle", value))
    for value in y.ticks():
        at = y.at(value)
        line = f"M{x.start:.1f} {at:.1f}H{x.end:.1f}"
        parts.append(_tick(line, (x.start - 5, at + 4), "end", value))
    return "".join(parts)


def _tick(line: str, place: tuple[float, float], anchor: str, value: float) -> str:
    """Return a line of the grid and its number at a place."""
    return (
        f'<path class="grid" d="{line}"/>'
        f'<text class="tick" x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{anchor}">'
        f"{value:.0f}</text>"
    )


def _mark(point: Point, x: _Axis, y: _Axis) -> str:
    kind = colour(point.position)
    name = escape(point.name)
    if point.across is None and point.up is None:
        return ""
    if point.up is None and point.across is not None:
        at = x.at(point.across.value)
        flip = at > (x.start + x.end) / 2
        turn = f"translate({at + (-14 if flip else 6):.1f} {y.end + 4:.1f}) rotate(90)"
        return (
            f'<path class="alone {kind}" d="M{at:.1f} {y.start:.1f}V{y.end:.1f}"/>'
            f'<text class="name" transform="{turn}">{name} (embeds only)</text>'
        )
    assert point.up is not None
    if point.across is None:
        at = y.at(point.up.value)
        return (
            f'<path class="alone {kind}" d="M{x.start:.1f} {at:.1f}H{x.end:.1f}"/>'
            f'<text class="name" x="{x.start + 5:.1f}" y="{at - 5:.1f}">{name} (writes only)</text>'
        )
    return _cross(point, x, y)


def _cross(point: Point, x: _Axis, y: _Axis) -> str:
    assert point.across is not None
    assert point.up is not None
    kind = colour(point.position)
    left = x.at(point.across.value)
    top = y.at(point.up.value)
    arms = ""
    if point.across.low is not None and point.across.high is not None:
        arms += f"M{x.at(point.across.low):.1f} {top:.1f}H{x.at(point.across.high):.1f}"
    if point.up.low is not None and point.up.high is not None:
        arms += f"M{left:.1f} {y.at(point.up.low):.1f}V{y.at(point.up.high):.1f}"
    flip = left > x.start + 0.65 * (x.end - x.start)
    anchor, shift = ("end", -9) if flip else ("start", 9)
    lower = 18 if point.position % 2 else -8  # names of neighbours do not overlap
    return (
        f'<path class="arm {kind}" d="{arms}"/>'
        f'<circle class="{kind}" cx="{left:.1f}" cy="{top:.1f}" r="6"/>'
        f'<text class="name" x="{left + shift:.1f}" y="{top + lower:.1f}" text-anchor="{anchor}">'
        f"{escape(point.name)}</text>"
    )


def _within(value: float) -> float:
    return min(100.0, max(0.0, value))
