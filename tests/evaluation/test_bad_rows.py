"""One bad row does not end a task: it is left out, counted and named wherever the figure is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.evaluation import cache, run
from gritlm.evaluation.embedding import local
from gritlm.evaluation.generation import row_files as generation_rows
from gritlm.evaluation.models import find_models
from gritlm.evaluation.rag import questions as rag_rows
from gritlm.evaluation.report import view, write
from gritlm.evaluation.runner import RunnerOptions
from gritlm.evaluation.tasks import discovery, suites
from gritlm.evaluation.tasks.bad_rows import LISTED, BadRowError, BadRows
from tests.evaluation import made
from tests.evaluation.embedding import folders


def add(path: Path, *lines: object, first: bool = False) -> None:
    """More lines of a file, objects as JSON, behind those that are there or before them."""
    more = "".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines)
    before = path.read_text(encoding="utf-8")
    path.write_text(more + before if first else before + more, encoding="utf-8")


def taken(task, bad: BadRows):
    """The data of a task, as lists, and what was left out."""
    return local.make(task, None, bad).dataset


PAIR = {"sentence1": "a", "sentence2": "b"}
BROKEN = {
    "blank text": (folders.sts, PAIR | {"sentence1": " ", "score": 1.0}),
    "no score": (folders.sts, PAIR),
    "a score in words": (folders.sts, PAIR | {"score": "high"}),
    "a score that is NaN": (folders.sts, '{"sentence1": "a", "sentence2": "b", "score": NaN}'),
    "broken JSON": (folders.sts, "{"),
    "a list": (folders.sts, "[1]"),
    "a label of a pair": (folders.pair_classification, PAIR | {"label": 2}),
    "no label": (folders.classification, {"text": "a"}),
    "an unknown label": (folders.classification, {"text": "a", "label": "ghost"}),
    "a label of another kind": (folders.clustering, {"text": "a", "label": 7}),
    "a text on both sides": (
        folders.reranking,
        {"query": "q", "positive": ["a"], "negative": ["a"]},
    ),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("maker", "line"), BROKEN.values(), ids=BROKEN)
def test_a_bad_row_is_left_out_and_named(tmp_path: Path, maker, line, first: bool):
    clean, spoilt = maker(tmp_path / "clean"), maker(tmp_path / "spoilt")
    file = spoilt.folder / "test.jsonl"
    add(file, line, first=first)
    bad = BadRows(skip=True)
    found, expected = taken(spoilt, bad), taken(clean, BadRows())
    assert str(found) == str(expected)
    assert bad.count == 1
    place = 1 if first else len(file.read_text(encoding="utf-8").splitlines())
    assert bad.reasons[0].startswith(f"{file}:{place}: ")
    with pytest.raises(BadRowError, match=r"test\.jsonl:"):
        taken(spoilt, BadRows())


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("qrels/test.tsv", "q1\tghost\t1", "'ghost' is no _id in"),
        ("qrels/test.tsv", "ghost\tfox\t1", "'ghost' is no _id in"),
        ("qrels/test.tsv", "q1\tfox", "2 columns with tabs between"),
        ("qrels/test.tsv", "q1\tfox\thigh", "column 'score' is 'high'"),
        ("corpus.jsonl", {"_id": "fox", "text": "again"}, "_id 'fox' is in"),
        ("corpus.jsonl", {"_id": "blank", "text": " "}, "neither 'title' nor 'text' has words"),
        ("queries.jsonl", {"_id": "q9", "text": ""}, "column 'text' is ''"),
        ("queries.jsonl", {"_id": "q1", "text": "again"}, "_id 'q1' is in"),
    ],
)
def test_a_bad_row_of_a_retrieval_task_is_left_out(tmp_path: Path, file, line, said):
    clean, spoilt = (folders.retrieval(tmp_path / name) for name in ("clean", "spoilt"))
    add(spoilt.folder / file, line)
    bad = BadRows(skip=True)
    found, expected = (
        taken(task, which)["default"]["test"] for task, which in ((spoilt, bad), (clean, BadRows()))
    )
    for part in ("corpus", "queries"):
        assert found[part][:] == expected[part][:]
    assert found["relevant_docs"] == expected["relevant_docs"]
    assert bad.count == 1
    assert said in bad.reasons[0]
    with pytest.raises(BadRowError):
        taken(spoilt, BadRows())


def test_bad_questions_are_left_out_and_the_limit_counts_the_usable(tmp_path: Path):
    folder = made.answering(tmp_path)
    add(folder / "test.jsonl", {"question": "Who?", "answers": [], "documents": ["x"]}, first=True)
    bad = BadRows(skip=True)
    found = rag_rows.load(folder, limit=2, bad=bad)
    assert [each.text for each in found] == [row["question"] for row in made.QUESTIONS[:2]]
    assert bad.count == 1
    assert "answers is []" in bad.reasons[0]
    with pytest.raises(BadRowError, match=r"test\.jsonl:1: "):
        rag_rows.load(folder)


@pytest.mark.parametrize(
    "line", [{"query": "a", "god": 0}, {"query": "a", "choices": ["b"], "gold": ["b"]}, "{"]
)
def test_bad_rows_of_a_generation_task_are_left_out(tmp_path: Path, line):
    folder = made.endings(tmp_path)
    add(folder / "test.jsonl", line, first=True)
    bad = BadRows(skip=True)
    data = generation_rows.splits({"test": folder / "test.jsonl"}, bad)
    assert data["test"].to_list() == made.CHOICES
    assert bad.count == 1
    assert bad.reasons[0].startswith(f"{folder / 'test.jsonl'}:1: ")


def test_the_list_of_reasons_is_bounded_and_the_count_exact(tmp_path: Path):
    lines = [f"{number}" for number in range(100)]

    def usable(line: str) -> int:
        if int(line) % 3 == 0:
            raise InputError(f"f:{line}: bad")
        return int(line)

    bad = BadRows(skip=True)
    assert len(bad.keep_usable(lines, usable, path=tmp_path)) == 66
    assert bad.count == 34
    assert bad.reasons == tuple(f"f:{3 * n}: bad" for n in range(LISTED))


def test_a_file_of_mostly_bad_rows_is_an_error(tmp_path: Path):
    task = folders.sts(tmp_path)
    add(task.folder / "test.jsonl", *["{"] * (len(folders.PAIRS) + 1))
    with pytest.raises(InputError, match=r"9 of 17 rows cannot be used, more than 50%") as caught:
        taken(task, BadRows(skip=True))
    assert "broken JSON" in str(caught.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of each kind, each with one bad row."""
    folder = made.data(tmp_path_factory.mktemp("data"))
    add(folder / "pairs" / "test.jsonl", {"sentence1": " ", "sentence2": "b", "score": 1})
    add(folder / "endings" / "test.jsonl", {"query": "x"})
    add(folder / "answers" / "test.jsonl", {"question": "Who?", "answers": ["I"]}, first=True)
    return folder


def evaluate(folder: Path, data: Path, kept: cache.ResultCache, **options: object):
    plan = suites.make_plan("quick", data=data)
    return run.evaluate(
        find_models([str(folder)]), plan, cache=kept, options=RunnerOptions(**options)
    )


def test_every_report_names_the_rows_that_a_figure_leaves_out(folder, data, tmp_path: Path):
    kept = cache.ResultCache(tmp_path / "cache")
    report = evaluate(folder, data, kept)
    (model,) = report.models
    assert model.skipped == ()
    assert {result.rows_skipped for result in model.results} == {1}
    counts = {result.task.split(" (")[0]: result.count for result in model.results}
    assert counts == {"pairs": len(made.PAIRS), "endings": 3, "answers": 3}
    names = ("pairs", "endings", "answers (")
    for path in write.write_report(report, tmp_path / "report", view.sections(report)):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            (found,) = json.loads(text)["models"]
            assert {result["rows_skipped"] for result in found["results"]} == {1}
            assert all(result["skip_reasons"] for result in found["results"])
        else:
            assert all(f"1 row skipped in {name}" in text for name in names), path
            assert text.count("test.jsonl:7: column") == 1
    again = evaluate(folder, data, kept)
    assert again.models[0].computed == ()
    assert again.models[0].results == model.results


def test_without_skipping_the_first_bad_row_ends_the_run(folder, data, tmp_path: Path):
    kept = cache.ResultCache(tmp_path / "cache")
    evaluate(folder, data, kept)
    with pytest.raises(BadRowError, match=r"pairs/test\.jsonl:7: column 'sentence1' is ' '"):
        evaluate(folder, data, kept, skip_bad=False)  # what is known leaves rows out


def test_a_first_row_that_is_bad_does_not_make_a_folder_no_task(data):
    assert [task.type for task in discovery.local(data)] == ["QA", "multiple_choice", "STS"]
