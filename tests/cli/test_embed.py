"""``gritlm embed`` gives what ``GritLM.encode`` gives, in every format, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gritlm import gritlm_instruction
from gritlm.cli.commands.embed import Precision
from gritlm.cli.output import replacing
from gritlm.lm.vectors import PRECISIONS

TEXTS = ["The heron waits.", "Bread rises — slowly, in the warm kitchen.", "Snow."]


def rows(stdout: str) -> list[dict]:
    return [json.loads(line) for line in stdout.splitlines()]


def vectors(stdout: str) -> np.ndarray:
    return np.array([row["embedding"] for row in rows(stdout)], dtype=np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "docs.jsonl"
    file.write_text(
        "".join(json.dumps({"id": f"d{i}", "text": t}) + "\n" for i, t in enumerate(TEXTS))
    )
    return file


def test_the_vectors_are_those_of_encode(run_model, lm):
    result = run_model("embed", *TEXTS)
    assert result.exit_code == 0
    expected_ND = lm.encode(TEXTS, instruction=gritlm_instruction())
    np.testing.assert_array_equal(vectors(result.stdout), expected_ND)


def test_a_line_holds_number_text_and_vector(run_model):
    records = rows(run_model("embed", *TEXTS).stdout)
    assert [(record["index"], record["text"]) for record in records] == list(enumerate(TEXTS))
    assert all(list(record) == ["index", "text", "embedding"] for record in records)


def test_ids_are_kept_in_order(run_model, corpus: Path):
    records = rows(run_model("embed", "--file", str(corpus)).stdout)
    assert [(record["id"], record["text"]) for record in records] == [
        (f"d{i}", text) for i, text in enumerate(TEXTS)
    ]


def test_titles_are_embedded_as_encode_corpus_does(run_model, lm, tmp_path: Path):
    documents = [{"title": "Heron", "text": "It waits."}, {"title": "", "text": "No title."}]
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in documents))
    expected_ND = lm.encode_corpus(documents, instruction=gritlm_instruction())
    result = run_model("embed", "--file", str(file))
    np.testing.assert_array_equal(vectors(result.stdout), expected_ND)


def test_plain_words_become_the_query_header(run_model, lm):
    result = run_model("embed", TEXTS[0], "--instruction", "Find the bird")
    expected_D = lm.encode(TEXTS[0], instruction=gritlm_instruction("Find the bird"))
    np.testing.assert_array_equal(vectors(result.stdout)[0], expected_D)


def test_a_raw_instruction_is_used_as_it_is(run_model, lm):
    for raw in ("Query: ", ""):
        result = run_model("embed", TEXTS[0], "--instruction", raw, "--raw-instruction")
        expected_D = lm.encode(TEXTS[0], instruction=raw)
        np.testing.assert_array_equal(vectors(result.stdout)[0], expected_D)


def test_an_instruction_that_is_formatted_already_gives_a_warning(run_model):
    formatted = gritlm_instruction("Find the bird")
    assert "--raw-instruction" in run_model("embed", "text", "--instruction", formatted).stderr
    raw = run_model("embed", "text", "--instruction", formatted, "--raw-instruction")
    assert raw.stderr == ""


@pytest.mark.parametrize("words", [(), ("-",), ("--file", "-")])
def test_texts_come_from_stdin(run_model, words: tuple[str, ...]):
    result = run_model("embed", *words, stdin="\n".join(TEXTS))
    assert result.stdout == run_model("embed", *TEXTS).stdout


def test_json_lines_come_from_stdin(run_model, corpus: Path):
    piped = run_model("embed", stdin=corpus.read_bytes())
    assert piped.stdout == run_model("embed", "--file", str(corpus)).stdout


def test_npy_holds_the_same_vectors(run_model, lm, tmp_path: Path):
    output = tmp_path / "vectors.npy"
    result = run_model("embed", *TEXTS, "--output", str(output))
    assert (result.exit_code, result.stdout) == (0, "")
    expected_ND = lm.encode(TEXTS, instruction=gritlm_instruction())
    np.testing.assert_array_equal(np.load(output), expected_ND)
    assert np.load(output).dtype == np.float32


def test_parquet_holds_the_same_vectors_with_ids(run_model, lm, corpus: Path, tmp_path: Path):
    output = tmp_path / "vectors.parquet"
    run_model("embed", "--file", str(corpus), "--output", str(output))
    table = pq.read_table(output).to_pydict()
    assert table["id"] == ["d0", "d1", "d2"]
    assert table["index"] == [0, 1, 2]
    assert table["text"] == TEXTS
    expected_ND = lm.encode(TEXTS, instruction=gritlm_instruction())
    np.testing.assert_array_equal(np.array(table["embedding"], dtype=np.float32), expected_ND)


def test_parquet_takes_ids_of_both_kinds(run_model, tmp_path: Path):
    output = tmp_path / "vectors.parquet"
    lines = '{"id": 7, "text": "a"}\n{"id": "x", "text": "b"}\n{"text": "c"}\n'
    run_model("embed", "--output", str(output), stdin=lines)
    assert pq.read_table(output)["id"].to_pylist() == ["7", "x", None]


def test_jsonl_in_a_file_is_what_stdout_would_show(run_model, tmp_path: Path):
    output = tmp_path / "vectors.jsonl"
    result = run_model("embed", *TEXTS, "--output", str(output))
    assert result.stdout == ""
    assert output.read_text(encoding="utf-8") == run_model("embed", *TEXTS).stdout


def test_the_format_given_wins_over_the_ending(run_model, tmp_path: Path):
    output = tmp_path / "vectors.dat"
    run_model("embed", "text", "--output", str(output), "--format", "npy")
    assert np.load(output).shape == (1, 48)


@pytest.mark.parametrize("name", ["v.csv", "v.json", "v.PARQUE", "v.txt"])
def test_an_ending_that_cannot_be_written_is_refused_with_those_that_can(error_of, tmp_path, name):
    message = error_of("embed", "text", "--output", str(tmp_path / name))
    assert message.startswith(f"--output {tmp_path / name}: {Path(name).suffix.lower()} is not")
    assert ".jsonl, .ndjson, .npy, .parquet" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["v", "v.ndjson", "v.JSONL"])
def test_json_lines_are_written_without_an_ending_too(run_model, tmp_path: Path, name: str):
    run_model("embed", "text", "--output", str(tmp_path / name))
    assert json.loads((tmp_path / name).read_text())["text"] == "text"


def test_dimensions_and_precision_are_those_of_encode(run_model, lm):
    result = run_model("embed", *TEXTS, "--truncate-dim", "8")
    expected_ND = lm.encode(TEXTS, instruction=gritlm_instruction(), truncate_dim=8)
    np.testing.assert_array_equal(vectors(result.stdout), expected_ND)
    result = run_model("embed", *TEXTS, "--precision", "ubinary")
    expected_ND = lm.encode(TEXTS, instruction=gritlm_instruction(), precision="ubinary")
    assert [row["embedding"] for row in rows(result.stdout)] == expected_ND.tolist()


def test_the_precisions_offered_are_those_of_encode():
    assert tuple(Precision) == PRECISIONS


def test_texts_are_cut_where_asked_with_one_warning(run_model, lm):
    result = run_model("embed", *TEXTS, "--max-length", "12", "--batch-size", "1")
    expected_ND = lm.encode(TEXTS, instruction=gritlm_instruction(), max_length=12, batch_size=1)
    np.testing.assert_array_equal(vectors(result.stdout), expected_ND)
    assert result.stderr.count("gritlm: warning:") == 1


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_binary_formats_need_a_file(error_of, form: str):
    assert f"add --output FILE.{form}" in error_of("embed", "text", "--format", form)


def test_an_output_that_cannot_be_written_is_refused_at_once(error_of, tmp_path: Path):
    missing = tmp_path / "missing" / "v.npy"
    assert "there is no folder" in error_of("embed", "text", "--output", str(missing))
    assert "is a folder" in error_of("embed", "text", "--output", str(tmp_path))


def test_an_error_leaves_the_old_file_and_nothing_else(error_of, model_options, tmp_path: Path):
    output = tmp_path / "vectors.npy"
    output.write_bytes(b"old")
    words = ("embed", *model_options, "text", "--output", str(output), "--max-length", "1")
    assert "no room" in error_of(*words) or "max_length" in error_of(*words)
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path):
    output = tmp_path / "vectors.jsonl"
    output.write_bytes(b"old")

    with suppress(KeyboardInterrupt), replacing(output) as file:
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]


def test_a_link_stays_a_link_to_the_new_file(tmp_path: Path):
    target, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with replacing(pipe) as file:
        file.write(b"line\n")
    reader.join(timeout=10)
    assert received == [b"line\n"]
    assert pipe.is_fifo()


def test_only_results_are_on_stdout_and_a_closed_pipe_is_quiet(start, model_options, tmp_path):
    file = tmp_path / "many.txt"
    file.write_text("".join(f"text {number}\n" for number in range(400)))
    process = start(["embed", *model_options, "--file", str(file)], stdin=subprocess.DEVNULL)
    first = process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read().decode()
    assert json.loads(first)["text"] == "text 0"
    assert process.wait(timeout=60) == 141
    assert "Traceback" not in stderr
    assert "Exception" not in stderr
    assert "error" not in stderr
