"""benchmarks/rag/quality.py on a tiny model, and the plot of its figures."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest
from benchmarks.rag import frontier, quality

from tests.rag.conftest import TEXTS

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def plots():
    pytest.importorskip("matplotlib", reason="the plot needs the extra train")


def figures(*settings: tuple[str, list[float], float]) -> list[dict]:
    """Made-up figures: name, milliseconds and share of right answers of each setting."""
    return [
        {"n": number, "answers": ["a"] * 6}
        | {
            name: ["a", "d1", 40, taken[number % len(taken)], float(number < 10 * share), 0.0]
            for name, taken, share in settings
        }
        for number in range(10)
    ]


def test_a_point_is_the_median_time_and_the_share_with_its_interval(tmp_path):
    rows = figures(("slow", [300.0, 400.0], 0.3), ("fast", [5.0, 7.0, 90.0], 0.5))
    labels = {"slow": "one prompt", "fast": "sequence"}
    fast, slow = frontier.draw(tmp_path / "plot.png", rows, labels)
    assert (fast.label, fast.milliseconds, fast.match.value) == ("sequence", 7.0, 50.0)
    assert (slow.label, slow.milliseconds, slow.match.value) == ("one prompt", 350.0, 30.0)
    assert 0 <= slow.match.low < 30 < slow.match.high <= 100
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_settings_without_times_and_other_lists_are_left_out():
    rows = figures(("fast", [5.0], 0.5), ("given the right passage", [0.0], 0.8))
    assert frontier.names(rows) == {"fast": "fast"}
    del rows[3]["fast"]  # a setting that was not asked everything
    assert frontier.names(rows) == {}


def test_a_run_writes_figures_of_each_question_and_the_plot(grit, tmp_path):
    documents = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    questions = [
        quality.Question("What colour is the ball?", ("red",), frozenset(["d3"])),
        quality.Question("At how many degrees does water boil?", ("100",), frozenset(["d0"])),
    ]
    chosen = Namespace(
        storage="auto",
        top_k="2",
        modes="sequence,doc",
        kinds="causal",
        figures=tmp_path / "figures.jsonl",
        plot=tmp_path / "plot.png",
    )
    quality.measure(grit, "made", documents, questions, chosen)
    rows = [json.loads(line) for line in chosen.figures.read_text(encoding="utf-8").splitlines()]
    assert [row["q"] for row in rows] == [question.text for question in questions]
    settings = {"none, k = 2", "sequence, causal, k = 2", "doc, causal, k = 2"}
    assert set(rows[0]) == {"q", "gold", *settings}
    for name in settings:
        _, document, read, taken, match, f1 = rows[0][name]
        assert document in {row["id"] for row in documents}
        assert read > 0
        assert taken > 0
        assert 0 <= f1 <= 1
        assert match in (0, 1)
    assert chosen.plot.read_bytes().startswith(PNG)
