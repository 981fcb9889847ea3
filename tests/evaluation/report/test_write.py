"""The three files hold the figures, and the page needs nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.evaluation.outcome import Outcome, Report
from gritlm.evaluation.report import words, write
from tests.evaluation import made
from tests.evaluation.report.conftest import OTHER

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Every tag that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(text: str) -> Page:
    read = Page()
    read.feed(text)
    assert read.open == []
    return read


def test_three_files_are_written(report: Report, tmp_path: Path):
    paths = write.write_report(report, tmp_path / "out")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted(paths)


def test_the_json_holds_everything(report: Report, tmp_path: Path):
    record = json.loads(write.write_report(report, tmp_path)[0].read_text(encoding="utf-8"))
    ours = record["models"][0]
    assert ours["results"][0]["score"] == 81.25
    assert ours["results"][0]["items"] == [1, 1, 0, 1]
    assert record["models"][1]["skipped"][0]["reason"] == "it only embeds"
    assert record["versions"]["gritlm"]
    assert record["machine"]["cores"] >= 1
    assert record["command"] == "gritlm eval ours"
    assert (record["suite"], record["limit"]) == ("quick", 50)
    cells = record["comparison"]["embedding"]["tasks"][0]["models"]
    assert cells[OTHER]["difference"]["value"] == -11.25
    assert record["tasks"][0]["licence"] == "CC BY <4.0>"


def test_the_markdown_has_a_column_a_model(report: Report, tmp_path: Path):
    text = write.write_report(report, tmp_path)[1].read_text(encoding="utf-8")
    assert r"| task | what | ours | a\|b <i> |" in text
    assert re.search(
        r"\| pairs \| STS · ndcg_at_10 · 4 rows \| 81\.2 \[.*\] \| 70\.0 \[.*\(−11\.", text
    )
    assert "it only embeds" in text
    columns = {
        line.replace(r"\|", "").count("|")
        for line in text.splitlines()
        if "ours" in line and line.startswith("| task")
    }
    assert columns == {5}


def test_the_page_shows_both_halves_and_is_well_formed(report: Report, tmp_path: Path):
    read = page(write.write_report(report, tmp_path)[2].read_text(encoding="utf-8"))
    for words_ in (
        "Embedding",
        "Generation",
        "Answering from passages",
        "81.2",
        "42.5",
        "23.46",
        OTHER,
        "it only embeds",
        "CC BY <4.0>",
        "2.5 million",
    ):
        assert words_ in read.text
    assert read.seen.count("details") == 4
    assert "plane" in (tmp_path / "report.html").read_text()


def test_the_page_needs_nothing_from_elsewhere(report: Report, tmp_path: Path):
    text = write.write_report(report, tmp_path)[2].read_text(encoding="utf-8")
    read = page(text)
    assert not {"script", "link", "img", "iframe"} & set(read.seen)
    assert "http" not in text
    assert "url(" not in text


def test_the_page_is_made_for_light_and_dark_and_for_small_screens(report: Report, tmp_path: Path):
    text = write.write_report(report, tmp_path)[2].read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_one_model_alone_and_none_at_all_are_reports_too(report: Report, tmp_path: Path):
    alone = replace(report, models=report.models[:1], stopped=True)
    read = page(write.write_report(alone, tmp_path)[2].read_text(encoding="utf-8"))
    assert "interrupted" in read.text
    nothing = replace(report, models=(Outcome("m", "GritLM", "d", {}),))
    assert "m" in page(write.write_report(nothing, tmp_path)[2].read_text(encoding="utf-8")).text


def test_a_folder_that_cannot_be_written_is_refused_before(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--output"):
        write.require_folder(tmp_path / "file" / "out")
    with pytest.raises(InputError, match="is no folder"):
        write.require_folder(tmp_path / "file")


def test_asking_whether_a_report_can_be_written_makes_nothing(tmp_path: Path):
    write.require_folder(tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_out_of_a_mean_is_named_in_all_three_files(report: Report, tmp_path: Path):
    record, markdown, html = (
        path.read_text("utf-8") for path in write.write_report(report, tmp_path)
    )
    assert json.loads(record)["comparison"]["generation"]["headline"]["left_out"] == ["wiki"]
    assert "Not in the mean: wiki." in markdown
    assert "Not in the mean: wiki." in page(html).text


@pytest.mark.parametrize(("metric", "tone"), [("acc", "good"), ("wer", "bad")])
def test_more_is_only_shown_as_better_where_it_is(report: Report, tmp_path: Path, metric, tone):
    models = [
        replace(model, results=(made.result("a", metric=metric, score=score, items=(value,) * 9),))
        for model, score, value in zip(report.models, (0.0, 100.0), (0.0, 1.0), strict=True)
    ]
    html = write.write_report(replace(report, models=tuple(models)), tmp_path)[2].read_text("utf-8")
    assert f'<span class="{tone}">+100.0' in html


def test_times_of_an_earlier_run_are_marked_as_such(report: Report, tmp_path: Path):
    result = made.result("a", seconds=2.0, details={"first_token_ms": 30.0, "recall": 80.0})
    first, second = (replace(model, results=(result,)) for model in report.models)
    known = replace(report, models=(first, replace(second, known=("a",))))
    html = write.write_report(known, tmp_path)[2].read_text("utf-8")
    assert "<th>time</th><td>2.0 s</td><td>2.0 s (earlier run)</td>" in html
    assert "<th>first_token_ms</th><td>30</td><td>30 (earlier run)</td>" in html
    assert "<th>recall</th><td>80</td><td>80</td>" in html


@pytest.mark.parametrize(
    ("value", "plain", "change"),
    [(1.25, "1.2", "+1.2"), (-3.0, "−3.0", "−3.0"), (0.01, "0.0", "0.0"), (-0.04, "−0.0", "0.0")],
)
def test_figures_in_words(value, plain, change):
    assert words.number(value) == plain
    assert words.signed(value) == change
