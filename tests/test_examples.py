"""The examples run as they are written, with tiny models."""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from gritlm import GritLM
from gritlm.cli.app import create_app
from gritlm.serve.config import ServerConfig
from tests.serve.conftest import served

ROOT = Path(__file__).parents[1]


def main_of(name: str) -> Callable[..., None]:
    """Return the ``main`` of an example."""
    main: Callable[..., None] = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]
    return main


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(max_position_embeddings=1024)


@pytest.fixture(scope="module")
def model(folder: Path) -> GritLM:
    return GritLM(folder, dtype="float32", device="cpu")


def test_search_prints_each_text_with_its_cosine_the_nearest_first(model, capsys):
    main_of("search")("When are dogs allowed?", model)
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_chat_answers_each_question_with_the_earlier_turns_in_its_prompt(model, capsys):
    questions = ("What is water?", "Who sleeps?")
    main_of("chat")(*questions, model=model)
    messages: list[dict[str, Any]] = []
    expected = ""
    for question in questions:
        messages.append({"role": "user", "content": question})
        answer = model.chat(messages, max_new_tokens=48)
        messages.append({"role": "assistant", "content": answer})
        expected += f"> {question}\n{answer}\n"
    assert capsys.readouterr().out == expected


def test_rag_answers_from_one_passage_and_reads_less_than_it_reuses(model, capsys):
    main_of("rag")("What is a tsunami?", model)
    out = capsys.readouterr().out
    assert re.match(r"\d+ documents, \d+ passages\n", out)
    assert len(re.findall(r"^  from '.+' \(cosine -?\d\.\d\d\)$", out, re.M)) == 1
    read, reused = map(int, re.findall(r"^(\d+) tokens read, (\d+) reused$", out, re.M)[0])
    assert read > 0
    assert reused > 0


def test_demo_names_the_wrong_results_of_an_untrained_model(model, tmp_path, capsys):
    demo = runpy.run_path(str(ROOT / "examples" / "demo.py"))
    store = tmp_path / "store"
    assert demo["main"](model, store) == 1
    out = capsys.readouterr().out
    question, fact = demo["CHAT"]
    assert f"{question}\n" in out
    assert out.count(f"wrong: the answer names {fact}") == 2  # where it happens, and at the end
    assert "To try next" not in out
    assert f"{demo['QUERY'][0]}\n" in out
    assert "\nfrom " in out
    read = {
        way: (int(reused), int(read))
        for way, reused, read in re.findall(
            r"^ ?from (one prompt|stored state) +(\d+) +(\d+) +\d+ ms", out, re.M
        )
    }
    assert read["one prompt"][0] == 0
    assert read["stored state"][0] > 0
    assert read["stored state"][1] < read["one prompt"][1]


def test_demo_ends_with_commands_that_exist(capsys, tmp_path):
    demo = runpy.run_path(str(ROOT / "examples" / "demo.py"))
    demo["check"]("water is wet", True)
    assert demo["finish"](41.6, tmp_path) == 0
    out = capsys.readouterr().out
    assert "right: water is wet\n" in out
    assert "Done in 42 s" in out
    known = set(typer.main.get_command(create_app()).commands)
    tried = re.findall(r"gritlm (\w+)", out)
    assert len(tried) == 3
    assert set(tried) <= known
    assert f"serve --store {os.path.relpath(tmp_path)}\n" in out


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("Press hard, using gauze", "Press firmly, *using gauze*."),
        ("Press firmly, using gauze.", "*Press firmly, using gauze*."),
        ("cats", "Press firmly, using gauze."),
    ],
)
def test_demo_marks_the_words_of_the_answer_in_the_quoted_sentence(answer, sentence):
    demo = runpy.run_path(str(ROOT / "examples" / "demo.py"))
    assert demo["marked"]("Press firmly, using gauze.", answer).plain == sentence


def test_finetune_trains_an_adapter_and_embeds_with_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # the recipe names its rows from there
    main_of("finetune")(
        str(tmp_path / "run"),
        f"model.base={folder}",
        "loss.matryoshka_dims=[48]",
        "training.bf16=false",
        "training.max_steps=4",
    )
    out = capsys.readouterr().out
    assert f"4 steps: {tmp_path / 'run'}\n" in out
    assert re.search(r"^cosine of question and answer: -?\d\.\d{3}$", out, re.M)
    assert (tmp_path / "run" / "adapter_config.json").is_file()


def test_openai_client_chats_and_embeds_through_a_server(model, capsys):
    with served(model, ServerConfig(port=0)) as live:
        main_of("openai_client")(f"{live.url}/v1")
    answer, vectors = capsys.readouterr().out.rsplit("\n", 2)[:2]
    expected = model.chat("What is a volcano?", max_new_tokens=48)
    assert answer == expected
    assert vectors == f"2 vectors of {model.embedding_dimension} dimensions"
