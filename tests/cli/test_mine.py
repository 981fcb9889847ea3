"""``gritlm mine`` fills up the negatives of a file of rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from gritlm.cli.commands.mine import MiningOptions
from gritlm.train.data.examples import EmbeddingExample, InstructedText
from gritlm.train.mining.mine import mine_rows
from gritlm.train.mining.negatives import MiningConfig

ROWS = [
    {"query": "Where is the ball?", "pos": ["Ann has a red ball."]},
    {"query": ["Find it", "Who sleeps?"], "pos": ["Cats sleep."], "neg": ["Bob has a car."]},
    {"query": "When does water boil?", "pos": ["At 100 degrees."]},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def negatives(file: Path) -> list[list[str]]:
    return [json.loads(line)["neg"] for line in file.read_text().splitlines()]


def test_the_rows_come_out_with_the_negatives_of_the_library(run_model, lm, rows: Path):
    out = rows.with_name("out.jsonl")
    result = run_model("mine", str(rows), "--output", str(out), "--num-negatives", "2")
    assert result.exit_code == 0
    assert result.stdout == ""
    asked = [
        EmbeddingExample(
            InstructedText("Where is the ball?"), (InstructedText("Ann has a red ball."),)
        ),
        EmbeddingExample(
            InstructedText("Who sleeps?", "Find it"),
            (InstructedText("Cats sleep."),),
            (InstructedText("Bob has a car."),),
        ),
        EmbeddingExample(
            InstructedText("When does water boil?"), (InstructedText("At 100 degrees."),)
        ),
    ]
    expected = list(mine_rows(lm, asked, MiningConfig(num_negatives=2)))
    assert [json.loads(line) for line in out.read_text().splitlines()] == expected


def test_passages_of_a_corpus_are_taken_too(run_model, rows: Path):
    corpus, out = rows.with_name("corpus.txt"), rows.with_name("out.jsonl")
    corpus.write_text("A dog.\nA park.\n")
    words = ("mine", str(rows), "-o", str(out), "--corpus", str(corpus), "--num-negatives", "5")
    assert run_model(*words).exit_code == 0
    assert all({"A dog.", "A park."} <= set(found) for found in negatives(out))


def test_instructions_stand_in_where_a_row_has_none(run_model, rows: Path):
    out = rows.with_name("out.jsonl")
    words = ("--instruction", "Answer", "--passage-instruction", "Read")
    assert run_model("mine", str(rows), "-o", str(out), *words).exit_code == 0
    first, second, _ = (json.loads(line) for line in out.read_text().splitlines())
    assert first["query"] == ["Answer", "Where is the ball?"]
    assert second["query"] == ["Find it", "Who sleeps?"]
    assert all(text[0] == "Read" for text in (*first["pos"], *first["neg"]))


def test_how_many_queries_have_how_many_negatives_is_said(run_model, rows: Path):
    out = str(rows.with_name("out.jsonl"))
    said = run_model("mine", str(rows), "-o", out, "--num-negatives", "3").stderr
    assert said == "3 of 3 queries have 3 negatives or more\n"
    said = run_model("mine", str(rows), "-o", out, "--num-negatives", "4").stderr
    assert said.startswith("0 of 3 queries have 4 negatives or more; 3 have 3 (for more: ")
    assert run_model("mine", str(rows), "-o", out, "--quiet").stderr == ""


def test_the_input_is_never_written_over(error_of, model_options, rows: Path):
    before = rows.read_bytes()
    link = rows.with_name("link.jsonl")
    link.symlink_to(rows)
    for target in (rows, link):
        message = error_of("mine", *model_options, str(rows), "-o", str(target))
        assert "is the file that is read; name another one" in message
    assert rows.read_bytes() == before


def test_a_file_of_another_format_is_not_written_to(error_of, rows: Path, tmp_path: Path):
    message = error_of("mine", str(rows), "--output", str(tmp_path / "mined.csv"))
    assert message.endswith("mined.csv: the rows are JSON lines; name the file .jsonl")


def test_a_corpus_is_never_written_over(error_of, model_options, rows: Path):
    corpus = rows.with_name("corpus.txt")
    corpus.write_text("A dog.\n")
    words = ("mine", *model_options, str(rows), "--corpus", str(corpus), "-o", str(corpus))
    assert "is the file that is read" in error_of(*words)


def test_what_was_written_before_stays_when_a_row_is_broken(error_of, model_options, rows: Path):
    out = rows.with_name("out.jsonl")
    out.write_text("before\n")
    with rows.open("a") as file:
        file.write('{"query": "x"}\n')
    assert f"{rows}:4: " in error_of("mine", *model_options, str(rows), "-o", str(out))
    assert out.read_text() == "before\n"


def test_nothing_is_left_behind_when_mining_fails(error_of, model_options, rows: Path):
    out = rows.with_name("out.jsonl")
    words = ("mine", *model_options, str(rows), "-o", str(out), "--query-max-len", "4")
    assert "no room" in error_of(*words)
    assert list(rows.parent.iterdir()) == [rows]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "-"), "the rows are written to a file"),
        (("-o", "no/folder/out.jsonl"), "there is no folder"),
        (("-o", "x.jsonl", "--range-max", "3"), "leave no room for 5 negatives"),
        (("-o", "x.jsonl", "--sampling", "best"), "--sampling"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_loaded(error_of, rows, words, said):
    assert said in error_of("mine", str(rows), "--model", "no/model", *words)


def test_the_options_have_the_defaults_of_the_library():
    assert MiningOptions().settings() == MiningConfig()
    assert asdict(MiningOptions()).keys() == asdict(MiningConfig()).keys()


def test_a_broken_row_is_skipped_on_demand(run_model, rows: Path):
    out = rows.with_name("out.jsonl")
    with rows.open("a") as file:
        file.write('{"query": "x"}\n')
    result = run_model("mine", str(rows), "-o", str(out), "--skip-bad")
    assert result.exit_code == 0
    assert f"skipped {rows}:4: the row has 'query'" in result.stderr
    assert len(negatives(out)) == 3
