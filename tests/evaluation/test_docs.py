"""What docs/evaluation.md says is so: layouts, suites, task.toml, code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gritlm.evaluation import models
from gritlm.evaluation.tasks import discovery, layouts, suites
from tests import tiny
from tests.evaluation import made

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.M | re.S)
    return found


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_every_layout_is_told_with_its_files_and_columns(kind):
    (row,) = re.findall(rf"^\| {kind}\b.*$", TEXT, flags=re.M)
    words = re.findall(r"`([^`]+)`", row)
    for file, columns in layouts.LAYOUTS[kind].items():
        assert {file, *columns} <= set(words)


def test_every_suite_is_told():
    assert all(f"| `{name}`" in TEXT for name in suites.SUITES)
    for name in ("embedding", "generation"):
        assert f"{len(suites.SUITES[name].hub)} tasks of" in TEXT
    assert f"the first {suites.QUICK_ROWS} rows" in TEXT


def test_the_task_toml_that_is_shown_can_be_read(tmp_path: Path):
    made.lines(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}])
    made.lines(tmp_path / "queries.jsonl", [{"_id": "1", "text": "a"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")
    (tmp_path / "task.toml").write_text(block("toml"), encoding="utf-8")
    (task,) = discovery.local(tmp_path)
    assert (task.name, task.licence) == ("my-search", "CC0")


def test_the_python_that_is_shown_runs(tmp_path: Path, monkeypatch):
    folder = tiny.folder(tmp_path / "base", max_position_embeddings=1024)
    monkeypatch.setattr(models, "_resolve", lambda what: (folder, None))
    monkeypatch.setattr(suites, "SAMPLES", made.data(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(compile(block("python"), "evaluation.md", "exec"), namespace)
    assert [model.name for model in namespace["report"].models] == ["default", "base"]
    assert (tmp_path / "eval-report" / "report.html").is_file()
