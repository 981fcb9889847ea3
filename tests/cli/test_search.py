"""``gritlm search`` ranks a file's texts for a query."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gritlm import gritlm_instruction
from gritlm.cli.commands.search import RankedText, _print_table

TEXTS = ["Snow keeps\tthe seed warm.", "A lighthouse warns ships.", "Bread rises.", "Bread rises."]
QUERY = "Why does bread rise?"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    file = tmp_path / "notes.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return file


@pytest.fixture
def stored(tmp_path: Path, lm) -> Path:
    file = tmp_path / "notes.npy"
    np.save(file, lm.encode(TEXTS, instruction=gritlm_instruction()))
    return file


def hits(stdout: str) -> list[dict]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_the_ranking_is_that_of_the_cosines(run_model, lm, notes: Path):
    header = gritlm_instruction("Find the answer")
    result = run_model("search", QUERY, str(notes), "--json", "--instruction", "Find the answer")
    assert result.exit_code == 0
    documents_ND = lm.encode(TEXTS, instruction=gritlm_instruction())
    scores = lm.similarity(lm.encode(QUERY, instruction=header), documents_ND)[0].tolist()
    best = sorted(range(len(TEXTS)), key=lambda row: -scores[row])
    found = hits(result.stdout)
    assert [hit["id"] for hit in found] == best
    assert [hit["rank"] for hit in found] == [1, 2, 3, 4]
    assert [hit["text"] for hit in found] == [TEXTS[row] for row in best]
    assert [hit["score"] for hit in found] == pytest.approx([scores[row] for row in best], abs=1e-6)


def test_of_equal_texts_the_earlier_comes_first(run_model, notes: Path):
    ids = [hit["id"] for hit in hits(run_model("search", QUERY, str(notes), "--json").stdout)]
    assert ids.index(2) == ids.index(3) - 1


def test_a_pipe_gets_one_line_a_result_with_tabs_between(run_model, notes: Path):
    lines = run_model("search", QUERY, str(notes)).stdout.splitlines()
    fields = [line.split("\t") for line in lines]
    assert [field[0] for field in fields] == ["1", "2", "3", "4"]
    assert all(len(field) == 4 for field in fields)
    assert {field[3] for field in fields} == {" ".join(text.split()) for text in TEXTS}


def test_top_k_bounds_the_results(run_model, notes: Path):
    assert len(run_model("search", QUERY, str(notes), "--top-k", "2").stdout.splitlines()) == 2
    assert len(run_model("search", QUERY, str(notes), "--top-k", "99").stdout.splitlines()) == 4


def test_ids_of_json_lines_are_shown(run_model, tmp_path: Path):
    file = tmp_path / "docs.jsonl"
    file.write_text('{"id": "bread", "text": "Bread rises."}\n{"id": 9, "text": "Snow."}\n')
    found = hits(run_model("search", QUERY, str(file), "--json").stdout)
    assert {hit["id"] for hit in found} == {"bread", 9}


def test_stored_vectors_give_the_same_ranking(run_model, notes: Path, stored: Path):
    fresh = run_model("search", QUERY, str(notes), "--json")
    from_file = run_model("search", QUERY, str(notes), "--json", "--embeddings", str(stored))
    assert from_file.exit_code == 0
    assert from_file.stdout == fresh.stdout


def test_stored_vectors_may_be_shorter(run_model, lm, notes: Path, stored: Path):
    documents_ND = lm.encode(TEXTS, instruction=gritlm_instruction(), truncate_dim=8)
    np.save(stored, documents_ND)
    query_D = lm.encode(QUERY, instruction=gritlm_instruction(), truncate_dim=8)
    scores = lm.similarity(query_D, documents_ND)[0]
    found = hits(
        run_model("search", QUERY, str(notes), "--json", "--embeddings", str(stored)).stdout
    )
    assert found[0]["score"] == pytest.approx(scores.max().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.zeros((3, 48), np.float32), "holds 3 vectors, the file 4 texts"),
        (np.zeros((4, 49), np.float32), "49 dimensions, this model's have 48"),
        (np.zeros(4, np.float32), "float32 of shape (4,)"),
        (np.zeros((4, 48), np.int8), "int8 of shape (4, 48)"),
        (np.full((4, 48), np.nan, np.float32), "NaN"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    error_of, model_options, notes: Path, stored: Path, matrix: np.ndarray, said: str
):
    np.save(stored, matrix)
    words = ("search", *model_options, QUERY, str(notes), "--embeddings", str(stored))
    assert said in error_of(*words)


@pytest.mark.parametrize("keep", [0, 40, 300])
def test_a_cut_file_of_vectors_is_refused(error_of, notes: Path, stored: Path, keep: int):
    stored.write_bytes(stored.read_bytes()[:keep])
    message = error_of("search", QUERY, str(notes), "--embeddings", str(stored))
    assert message.startswith(f"cannot read {stored}")


def test_a_missing_file_of_vectors_is_refused(error_of, notes: Path):
    assert "No such file" in error_of("search", QUERY, str(notes), "--embeddings", "none.npy")


def test_the_table_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]):
    _print_table([RankedText(1, 0.5, "[red]", "see [/bold] and [1]")])
    shown = capsys.readouterr().out
    assert "see [/bold] and [1]" in shown
    assert "[red]" in shown
