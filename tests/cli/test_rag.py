"""``gritlm index``, ``ask`` and ``store``: from files to answers, and what is said of failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "water.txt").write_text("Water boils at 100 degrees.", encoding="utf-8")
    (folder / "cats.md").write_text("# Cats\n\nCats sleep most of the day.", encoding="utf-8")
    (folder / "empty.txt").write_text("", encoding="utf-8")
    rows = [
        {"id": 1, "title": "Ball", "text": "Ann has a red ball.", "lang": "en"},
        {"id": 2, "text": "Dogs like long walks.", "lang": "de"},
    ]
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return folder


@pytest.fixture
def store(run_model, notes, tmp_path: Path) -> Path:
    result = run_model("index", str(notes), "--to", str(tmp_path / "store"))
    assert result.exit_code == 0, result.output
    return tmp_path / "store"


def test_what_was_indexed_and_what_was_skipped_is_told(run_model, notes, tmp_path):
    place = str(tmp_path / "store")
    first = run_model("index", str(notes), "--to", place)
    assert first.stdout.startswith("added 4 documents (0 of them replaced) with 4 passages")
    assert "skipped: " in first.stderr
    assert "empty.txt" in first.stderr
    again = run_model("index", str(notes), "--to", place)
    assert again.stdout.startswith("added 0 documents")
    assert "unchanged: 4 documents; skipped: 1; the store has 4 passages" in again.stdout
    assert "4 key/value blocks" in again.stdout


def test_blocks_without_room_are_told(run_model, notes, tmp_path):
    result = run_model("index", str(notes), "--to", str(tmp_path / "s"), "--disk-gb", "0.001")
    assert result.exit_code == 0
    assert "full: " not in result.stderr
    (tmp_path / "many.jsonl").write_text(
        "".join(json.dumps({"text": f"{n} {'word ' * 60}"}) + "\n" for n in range(40))
    )
    result = run_model(
        "index", str(tmp_path / "many.jsonl"), "--to", str(tmp_path / "t"), "--disk-gb", "0.001"
    )
    assert "full: " in result.stderr
    assert "--disk-gb" in result.stderr


def test_an_answer_comes_with_its_sources_and_a_trace(run_model, store):
    result = run_model(
        "ask", "What colour is the ball?", "--store", str(store), "--top-k", "2",
        "--max-new-tokens", "8", "--trace",
    )  # fmt: skip
    assert result.exit_code == 0
    assert len(result.stdout.rstrip("\n").rpartition("\n\n")[2].splitlines()) == 2
    assert "mode doc, bidirectional blocks" in result.stderr
    assert "first_token" in result.stderr


def test_json_holds_answer_sources_and_trace(run_model, store):
    result = run_model(
        "ask", "What colour is the ball?", "--store", str(store), "--filter", "lang=en", "--json",
        "--max-new-tokens", "4", "--mode", "doc-query", "--blocks", "causal", "--hybrid",
        "--rerank", "3",
    )  # fmt: skip
    said = json.loads(result.stdout)
    assert [source["title"] for source in said["sources"]] == ["Ball"]
    assert said["trace"]["mode"] == "doc-query"
    assert said["trace"]["tokens_prefilled"] > 0


def test_a_store_is_looked_after(run, store):
    stats = dict(line.split("\t") for line in run("store", "stats", str(store)).stdout.splitlines())
    assert stats["blocks"] == "4"
    verified = run("store", "verify", str(store))
    assert (verified.exit_code, verified.stdout) == (0, "4 blocks, 0 damaged\n")
    assert run("store", "gc", str(store)).stdout.endswith("bytes given back\n")
    assert run("store", "rebuild", str(store)).stdout == "4 blocks found\n"


def test_damage_is_named_and_answered_around(run, run_model, store):
    ask = ("ask", "Who sleeps?", "--store", str(store), "--json", "--max-new-tokens", "6")
    before = json.loads(run_model(*ask).stdout)["answer"]
    (arena,) = (store / "kv").rglob("*.kv")
    content = bytearray(arena.read_bytes())
    for at in range(4096, len(content), 4096):
        content[at] ^= 1
    arena.write_bytes(content)
    verified = run("store", "verify", str(store))
    assert verified.exit_code == 1
    assert "damaged: " in verified.stderr
    after = json.loads(run_model(*ask).stdout)
    assert after["answer"] == before
    assert "computed" in after["trace"]["bytes_read"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ask", "Why?", "--store", "absent"), "there is no store here"),
        (("store", "stats", "absent"), "absent holds no store"),
        (("index", "absent", "--to", "s"), "absent"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(run_model, run, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = (run if words[0] == "store" else run_model)(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_filter_without_a_value_is_refused(run_model, store):
    result = run_model("ask", "Why?", "--store", str(store), "--filter", "lang")
    assert result.exit_code == 2
    assert "expected NAME=VALUE" in result.stderr


def test_an_unknown_field_of_a_filter_is_named_with_the_nearest(run_model, store):
    result = run_model("ask", "Why?", "--store", str(store), "--filter", "lamg=en")
    assert result.exit_code == 2
    assert "lang" in result.stderr


def test_another_way_of_cutting_is_refused(run_model, notes, store):
    result = run_model("index", str(notes), "--to", str(store), "--max-tokens", "64")
    assert result.exit_code == 2
    assert "was made with" in result.stderr
