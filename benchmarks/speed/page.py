"""The page docs/benchmarks.md, made from the figures of a run.

python -m benchmarks.speed.page
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import table

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = DOCS / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"

_INTRODUCTION = """# Benchmarks

Made by `make bench` on one machine. Each ratio is from a single run, in which the sides take turns
with the same weights and the same number of threads, and is the ratio of the medians.
`benchmarks.json` next to this page has every measurement; `python -m benchmarks.speed.page` makes
this page from it. Attempts, and those that lost, are in [log.md](log.md).

A ratio of 2x means that gritlm does twice as much in a second as the side after the colon. *Wanted*
is the goal that was set before the measurement; a goal that is not reached is marked *missed*.
"""


def ratios(figures: Mapping[str, Any]) -> str:
    """Return the table of the ratios."""
    lines = [line for row in figures["rows"].values() for line in _ratios(row, figures["clock"])]
    return table(["gritlm, compared with", "measured", "wanted", ""], lines)


def _ratios(row: Mapping[str, Any], clock: str) -> Iterator[list[str]]:
    for each in row["ratios"]:
        name = each["label"]
        wanted = f">= {each['wanted']:g}x"
        if clock not in each:
            yield [name, "-", wanted, _reason(row["missing"], each)]
            continue
        verdict = "" if each[clock] >= each["wanted"] else "missed"
        yield [name, f"{each[clock]:.2f}x", wanted, verdict]


def _reason(missing: Mapping[str, str], ratio: Mapping[str, Any]) -> str:
    found = [missing[side] for side in (ratio["side"], ratio["over"]) if side in missing]
    return found[0] if found else "not measured"


def rates(figures: Mapping[str, Any]) -> str:
    """Return the table of the rates of all sides."""
    clock = figures["clock"]
    lines = []
    for row in figures["rows"].values():
        for side, found in row["rates"].items():
            values = found[clock]
            spread = f"{min(values):,.4g} to {max(values):,.4g}"
            lines.append([row["title"], side, f"{median(values):,.4g}", spread, row["unit"]])
    return table(["row", "side", "median", "range", "unit"], lines)


def page(figures: Mapping[str, Any]) -> str:
    """Return the text of the page."""
    clock = "wall time" if figures["clock"] == "wall" else "CPU time of the processes"
    peers = figures["llama.cpp"]
    quick = " A quick run: a single measurement of each side." if figures["quick"] else ""
    facts = [
        f"Machine: {figures['machine']}. Date: {figures['date']}. Rates are of {clock}"
        f"{'' if figures['clock'] == 'wall' else ', because other work shared the machine'}.{quick}"
    ]
    if figures.get("apart"):
        facts.append(
            "Libraries that are compared, and plain and compiled steps, are in processes of their "
            "own."
        )
    if peers:
        facts.append(
            f"llama.cpp: xllamacpp {peers['xllamacpp']}, the wheel of the package index, which "
            f"reports `{peers['system']}`."
        )
    notes = [
        f"- {row['title']}: {'; '.join(row['notes'])}."
        for row in figures["rows"].values()
        if row["notes"]
    ]
    parts = [_INTRODUCTION.strip(), "\n".join(facts)]
    parts += ["## Ratios", ratios(figures), "## Rates", rates(figures), "## Notes"]
    return "\n\n".join([*parts, "\n".join(notes)]) + "\n"


def write(figures: Mapping[str, Any], folder: Path = DOCS) -> None:
    """Write figures and page."""
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIGURES.name).write_text(text, encoding="utf-8")
    (folder / PAGE.name).write_text(page(figures), encoding="utf-8")


def main() -> None:
    PAGE.write_text(page(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
