"""Plot of the quality of answers over the time to the first token, from figures of rag_quality.py.

    python -m benchmarks.rag.frontier FIGURES.jsonl PLOT.png [--title TEXT]
                                      [--setting NAME=LABEL ...]

FIGURES has one JSON object for each question: for each setting a list of six values: answer, id of
the document that it comes from, tokens read, milliseconds to the first token, match, F1. Without
``--setting`` all settings with times are drawn under their names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gritlm.evaluation import bootstrap
from gritlm.evaluation.results import TaskResult

VALUES = 6  # of a setting
MILLISECONDS = 3
MATCH = 4
TITLE = "Natural Questions: right answers over time to the first token"


@dataclass(frozen=True)
class Point:
    """A setting on the plot.

    Attributes:
        label: name of the setting.
        milliseconds: median time to the first token.
        match: share of right answers in percent, with its 95% interval.
    """

    label: str
    milliseconds: float
    match: bootstrap.Estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figures", type=Path)
    parser.add_argument("plot", type=Path)
    parser.add_argument("--title", default=TITLE)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=LABEL")
    chosen = parser.parse_args()
    lines = chosen.figures.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    labels = dict(each.split("=", 1) for each in chosen.setting)
    unknown = [name for name in labels if name not in names(rows)]
    if unknown:
        parser.error(f"no times of {unknown}; {chosen.figures} has {[*names(rows)]}")
    draw(chosen.plot, rows, labels or names(rows), title=chosen.title)
    print(chosen.plot)


def names(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the settings that all rows have, each as its own label."""
    return {
        name: name
        for name, value in rows[0].items()
        if isinstance(value, list)
        and all(isinstance(row.get(name), list) and len(row[name]) == VALUES for row in rows)
        and value[MILLISECONDS] != 0
        and not isinstance(value[MILLISECONDS], str)
    }


def point(rows: Sequence[Mapping[str, Any]], name: str, label: str) -> Point:
    """Return the median time and the share of right answers of a setting."""
    items = tuple(float(row[name][MATCH]) for row in rows)
    share = 100 * sum(items) / len(items)
    result = TaskResult("rag_quality", "rag", "QA", "match", share, len(items), 0.0, items)
    taken = median(float(row[name][MILLISECONDS]) for row in rows)
    return Point(label, taken, bootstrap.score(bootstrap.resampled(result)))


def draw(
    path: Path, rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], *, title: str = TITLE
) -> list[Point]:
    """Draw a point with its interval for each setting, and return the points, the fastest first.

    Args:
        path: file of the image; its suffix is the format.
        rows: figures of each question.
        labels: label of each setting to be drawn.
        title: title of the plot; the number of questions is added.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    found = sorted(
        (point(rows, name, label) for name, label in labels.items()),
        key=lambda each: each.milliseconds,
    )
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for each in found:
        value, low, high = each.match.value, each.match.low, each.match.high
        error = None if low is None or high is None else [[value - low], [high - value]]
        axes.errorbar(each.milliseconds, value, error, fmt="o", capsize=3, label=each.label)
    axes.set(
        xscale="log",
        xlabel="milliseconds to the first token, median",
        ylabel="right answers (match), percent, 95% interval",
        title=f"{title} (n = {len(rows)})",
    )
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%.0f"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return found


if __name__ == "__main__":
    main()
