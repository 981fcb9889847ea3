"""The table of speeds: ratios, missing peers, and the page that is made from the figures."""

from __future__ import annotations

import json

from benchmarks.speed import page
from benchmarks.speed.measure import Compared, Row, Taken, alternate, less, timed


def row() -> Row:
    compared = [Compared("a: b", "a", "b", 2.0), Compared("a: c", "a", "c", 1.0)]
    made = Row("decode", "tokens/s", compared, missing={"c": "not installed: pip install c"})
    made.taken = {
        "a": [Taken(2.0, 1.0, 10), Taken(1.0, 1.0, 10), Taken(4.0, 1.0, 10)],
        "b": [Taken(4.0, 1.0, 10), Taken(5.0, 1.0, 10), Taken(1.0, 1.0, 10)],
    }
    return made


def figures(clock: str = "wall") -> dict:
    return {
        "machine": "a machine",
        "date": "2026-01-02",
        "clock": clock,
        "threads": 1,
        "quick": False,
        "llama.cpp": {"xllamacpp": "1", "system": "AVX2 = 1"},
        "rows": {"decode": json.loads(json.dumps(row().as_json()))},
    }


def test_a_ratio_is_that_of_the_medians_for_both_clocks():
    first, second = row().as_json()["ratios"]
    assert (first["wall"], first["cpu"]) == (2.0, 1.0)
    assert "wall" not in second


def test_a_side_that_is_missing_is_named_with_its_reason():
    text = page.ratios(figures())
    assert "| a: b | 2.00x | >= 2x |  |" in text
    assert "| a: c | - | >= 1x | not installed: pip install c |" in text
    assert "| a: b | 1.00x | >= 2x | missed |" in page.ratios(figures("cpu"))


def test_sides_take_turns_after_the_warmups():
    turns = []
    sides = {
        name: lambda name=name: timed(lambda: turns.append(name), 1) for name in ("one", "other")
    }
    taken = alternate(sides, 2)
    assert turns == ["one", "other"] * 3
    assert [len(each) for each in taken.values()] == [2, 2]


def test_the_first_part_of_some_work_does_not_count():
    assert less(Taken(5.0, 4.0, 10), Taken(2.0, 1.0, 1)) == Taken(3.0, 3.0, 9)


def test_the_page_says_whether_the_sides_were_apart():
    sentence = "in processes of their own"
    assert sentence not in page.page(figures())
    assert sentence in page.page(figures() | {"apart": True})


def test_figures_and_page_are_written_together(tmp_path):
    page.write(figures(), tmp_path)
    read = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == page.page(read)


def test_the_page_of_the_documentation_is_that_of_its_figures():
    read = json.loads(page.FIGURES.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.page(read)
