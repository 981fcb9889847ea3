"""``gritlm eval``: models measured for real on tiny tasks, and every way it can end."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from gritlm.cli import figures
from gritlm.evaluation import kinds
from gritlm.evaluation.outcome import Outcome, Report
from gritlm.evaluation.report import view
from gritlm.evaluation.results import TaskResult
from tests import tiny
from tests.evaluation import made

Eval = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return made.data(tmp_path / "data")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Options that keep a run inside the folder of the test."""
    return [
        "--output",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> made.Counting:
    """Halves that answer at once."""
    counting = made.Counting()
    monkeypatch.setattr(kinds, "measures", counting.measures)
    return counting


def record(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))


def test_two_models_are_measured_for_real_and_stand_side_by_side(run, data, words, tmp_path):
    ours = tiny.folder(tmp_path / "ours", max_position_embeddings=1024)
    theirs = tiny.folder(tmp_path / "theirs", seed=1, max_position_embeddings=1024)
    result = run("eval", str(ours), str(theirs), "--data", str(data), *words)
    assert result.exit_code == 0, result.stderr
    for name in ("ours", "theirs", "pairs", "endings", "answers (fresh)", "report.html"):
        assert name in result.stdout
    found = record(tmp_path)
    scores = {r["task"]: r["score"] for r in found["models"][0]["results"]}
    assert {"pairs", "endings", "answers (oracle)"} <= scores.keys()
    assert found["models"][0]["skipped"] == []
    assert {r["half"] for r in found["models"][1]["results"]} == {"embedding", "generation", "rag"}
    assert "Answering from passages" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_rerun_takes_what_is_known(run, model_folder, data, words, fake):
    assert run("eval", str(model_folder), "--data", str(data), *words).exit_code == 0
    assert fake.names == ["pairs", "endings", "answers"]
    again = run("eval", str(model_folder), "--data", str(data), *words)
    assert len(fake.asked) == 3
    assert again.stderr.count("(known)") == 3
    uncached = [*words[:2], *words[4:], "--no-cache"]
    run("eval", str(model_folder), "--data", str(data), *uncached)
    assert len(fake.asked) == 6


def test_options_reach_the_halves(run, model_folder, data, words, fake):
    more = ("--suite", "embedding", "--limit", "2", "--batch-size", "3")
    assert run("eval", str(model_folder), "--data", str(data), *words, *more).exit_code == 0
    ((_, name, how),) = fake.asked
    assert (name, how.limit, how.batch.size) == ("pairs", 2, 3)


def test_tasks_are_taken_by_name(run, model_folder, data, words, fake):
    more = ("--tasks", "answers, pairs")
    assert run("eval", str(model_folder), "--data", str(data), *words, *more).exit_code == 0
    assert fake.names == ["answers", "pairs"]


def test_a_skipped_task_is_named_and_the_rest_counts(run, model_folder, data, words, monkeypatch):
    counting = made.Counting(pairs=ConnectionError("no network"))
    monkeypatch.setattr(kinds, "measures", counting.measures)
    result = run("eval", str(model_folder), "--data", str(data), *words)
    assert result.exit_code == 0
    assert re.search(r"skipped: .*: pairs: ConnectionError: no network", result.stderr)


def test_the_exit_code_is_3_when_nothing_ran(run, model_folder, data, words, tmp_path, monkeypatch):
    errors = {name: ConnectionError("no network") for name in ("pairs", "endings", "answers")}
    monkeypatch.setattr(kinds, "measures", made.Counting(**errors).measures)
    result = run("eval", str(model_folder), "--data", str(data), *words)
    assert result.exit_code == 3
    assert "nothing could be measured" in result.stderr
    assert len(record(tmp_path)["models"][0]["skipped"]) == 3


def test_ctrl_c_leaves_a_report_of_what_is_there(
    run, model_folder, data, words, tmp_path, monkeypatch
):
    counting = made.Counting(endings=KeyboardInterrupt())
    monkeypatch.setattr(kinds, "measures", counting.measures)
    result = run("eval", str(model_folder), "--data", str(data), *words)
    assert result.exit_code == 130
    assert "goes on from there" in result.stderr
    found = record(tmp_path)
    assert found["stopped"]
    assert [r["task"] for r in found["models"][0]["results"]] == ["pairs"]


def test_an_unknown_task_is_refused_with_the_nearest(
    error_of, model_folder, data, words, monkeypatch
):
    monkeypatch.setattr(kinds, "hubs", lambda: {"embedding": lambda: ["SciFact"]})
    message = error_of("eval", str(model_folder), "--tasks", "scifcat", "--data", str(data), *words)
    assert "unknown task 'scifcat'" in message
    assert "did you mean 'SciFact'" in message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--suite", "quik"), "did you mean 'quick'"),
        (("--data", "no/where"), "there is no such folder"),
        (("--tasks", " , "), "names no task"),
        (("--limit", "0"), "--limit"),
        (("--suite", "rag", "--tasks", "pairs"), "--suite rag and --tasks"),
        (("--no-cache",), "exclude each other"),
        (("--device", "warp"), "is no device"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded_or_made(
    error_of, words, tmp_path, more, said
):
    assert said in error_of("eval", "no/model", *words, *more)
    assert not (tmp_path / "out").exists()


def test_names_that_look_like_markup_are_shown_as_they_are(
    run, model_folder, data, words, monkeypatch
):
    def measure(model: object, task: object, how: object) -> list[TaskResult]:
        return [made.result("a[/b]", metric="acc[bold]")]

    monkeypatch.setattr(kinds, "measures", lambda: {"embedding": measure})
    more = ("--suite", "embedding", "--data", str(data))
    result = run("eval", f"[/red]:smile:={model_folder}", *more, *words)
    assert result.exit_code == 0, result.stderr
    for name in ("[/red]:smile:", "a[/b]", "acc[bold]"):
        assert name in result.stdout


def test_a_reader_who_leaves_finds_the_report_written(
    run, model_folder, data, words, fake, tmp_path, monkeypatch
):
    def leave(*args: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(figures, "print_tables", leave)
    result = run("eval", str(model_folder), "--data", str(data), *words)
    assert result.exit_code == 141
    assert "error" not in result.stderr
    assert len(record(tmp_path)["models"][0]["results"]) == 3


def test_the_tables_leave_a_broken_pipe_to_the_program(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    outcome = Outcome("m", "GritLM", "digest", {}, (made.result("a"),))
    sections = view.sections(Report((outcome,), "quick", None))
    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        figures.print_tables(sections, ["m"])


def test_a_model_that_is_none_is_refused(error_of, data, words, tmp_path):
    message = error_of("eval", str(tmp_path / "none"), "--data", str(data), *words)
    assert "there is no such folder" in message


def test_a_folder_in_the_wrong_layout_names_file_and_column(error_of, data, words):
    file = data / "pairs" / "test.jsonl"
    file.write_text('{"sentence1": "a", "sentence2": "b"}\n')
    message = error_of("eval", "no/model", "--data", str(data), *words)
    assert f"{file}:1: columns sentence1, sentence2" in message


def test_quiet_says_nothing_on_the_way(run, model_folder, data, words, fake):
    result = run("eval", str(model_folder), "--data", str(data), *words, "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""


def test_a_bad_row_is_skipped_and_named_or_ends_the_run(run, model_folder: Path, tmp_path: Path):
    data = tmp_path / "data"
    file = made.sts(data / "pairs") / "test.jsonl"
    with file.open("a") as rows:
        rows.write('{"sentence1": "a", "sentence2": "b"}\n')
    words = ("eval", str(model_folder), "--data", str(data), "--output", str(tmp_path / "report"))
    result = run(*words, "--no-cache")
    assert result.exit_code == 0, result.output
    assert f"1 row skipped in pairs: {file}:7: no column 'score'" in result.stdout
    result = run(*words, "--no-cache", "--no-skip-bad")
    assert result.exit_code == 2
    assert f"gritlm: error: {file}:7: no column 'score'" in result.stderr


def test_a_model_folder_is_calibrated_and_keeps_the_settings(run, model_folder, data, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    task = tmp_path / "task"
    task.mkdir()
    documents = [{"title": "", "text": text} for text in tiny.SENTENCES[:3]]
    row = {"question": "What is red?", "answers": ["red"], "documents": documents, "gold": 1}
    (task / "test.jsonl").write_text("\n".join([json.dumps(row)] * 20), encoding="utf-8")
    done = run("eval", str(folder), "--calibrate", str(task), "--device", "cpu")
    settings = json.loads(done.stdout)["fusion"]
    assert json.loads((folder / "gritlm.json").read_text())["fusion"] == settings
    assert "of 20 questions" in done.stderr


def test_one_model_is_calibrated_at_a_time(error_of, model_folder, tmp_path):
    message = error_of("eval", str(model_folder), "base", "--calibrate", str(tmp_path))
    assert "--calibrate got 2 models; expected one" in message
