"""The demo runs, and the corpus it shows is in order."""

from __future__ import annotations

import importlib.util
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from gritlm import GritLM
from tests import tiny

EXAMPLES = Path(__file__).parents[1] / "examples"


def rows(name: str) -> list[dict[str, str]]:
    text = (EXAMPLES / "corpus" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def demo() -> Any:
    """The demo as a module."""
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shown(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines it prints on a tiny random model."""
    folder = tiny.folder(tmp_path_factory.mktemp("tiny"), max_position_embeddings=8192)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as changes, redirect_stdout(printed):
        changes.setattr(demo, "GritLM", lambda: GritLM(folder, dtype="float32", device="cpu"))
        changes.setattr(demo, "REPEATS", 1)
        demo.main()
    return printed.getvalue().splitlines()


def test_the_demo_shows_that_a_store_leaves_less_to_read(demo, shown):
    lines = [line.split() for line in shown]
    read = {words[0]: int(words[2]) for words in lines if len(words) == 5 and words[4] == "ms"}
    assert set(read) == set(demo.MODES)
    assert max(read["doc"], read["doc-query"]) < read["none"] / 3


def test_the_demo_shows_the_sentences_it_compares_the_nearest_first(demo, shown):
    lines = [line for line in shown if any(text in line for text in demo.OTHERS)]
    cosines = [float(line.split()[0]) for line in lines]
    assert len(cosines) == len(demo.OTHERS)
    assert cosines == sorted(cosines, reverse=True)


def test_every_question_names_the_passage_that_answers_it():
    known = {passage["id"] for passage in rows("passages")}
    assert {question["passage"] for question in rows("questions")} <= known


@pytest.mark.parametrize("name", ["passages", "papers"])
def test_every_passage_has_an_id_of_its_own_a_title_a_text_and_a_source(name):
    passages = rows(name)
    assert len({passage["id"] for passage in passages}) == len(passages)
    assert all(p["title"] and p["text"] and p["source"].startswith("https://") for p in passages)
