"""``gritlm index``, ``ask`` and ``store``: from files to answers, and what is said of failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gritlm.cli.commands.ask import _line
from gritlm.rag.answer import Source
from gritlm.rag.index.passage_table import IndexFailedError
from gritlm.rag.kvstore.store import KVStore


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


@pytest.fixture
def run_words(run, model_options):
    """The command line with the tiny model named at its end."""

    def call(*words: str):
        return run(*words, *model_options)

    return call


def test_the_field_of_the_text_is_named_and_skipped_rows_are_counted(run_model, tmp_path):
    (tmp_path / "tea.csv").write_text("story,price\nGreen tea is steamed.,3\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text("1\n" * 300, encoding="utf-8")
    place = str(tmp_path / "store")
    files = (str(tmp_path / "tea.csv"), str(tmp_path / "bad.jsonl"))
    result = run_model("index", *files, "--text-field", "story", "--to", place)
    assert result.stdout.startswith("added 1 document (0 of them replaced) with 1 passage in")
    assert "skipped: 300; the store has 1 passage" in result.stdout
    assert result.stderr.count("bad.jsonl:") == 100
    assert "200 more, which are not named" in result.stderr


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


def test_rows_that_are_gone_are_told(run_model, tmp_path):
    rows, place = tmp_path / "rows.jsonl", str(tmp_path / "store")
    rows.write_text('{"text": "It opens at nine."}\n{"text": "It rains."}\n')
    run_model("index", str(rows), "--to", place)
    rows.write_text('{"text": "It opens at ten."}\n{"text": "It rains."}\n')
    again = run_model("index", str(rows), "--to", place)
    assert "removed: 1 document; unchanged: 1 document; skipped: 0;" in again.stdout
    assert "the store has 2 passages" in again.stdout


def test_what_went_in_before_the_passages_had_no_room_is_told(
    run_model, notes, tmp_path, monkeypatch
):
    def full(*_: object, **__: object) -> None:
        raise IndexFailedError("the index failed: no space left on device")

    monkeypatch.setattr("gritlm.rag.index.index.Index.add", full)
    result = run_model("index", str(notes), "--to", str(tmp_path / "store"))
    assert result.exit_code != 0
    assert result.stdout.startswith("added 0 documents")
    assert "no space left" in result.stderr
    assert "gritlm: stopped: " in result.stderr


def test_passages_can_be_kept_elsewhere(run_model, notes, tmp_path):
    place, address = tmp_path / "store", str(tmp_path / "elsewhere")
    assert run_model("index", str(notes), "--to", str(place), "--index", address).exit_code == 0
    assert not (place / "index").exists()
    assert run_model("ask", "Does it rain?", "--store", str(place)).exit_code == 0


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
        "ask",
        "What colour is the ball?",
        "--store",
        str(store),
        "--top-k",
        "2",
        "--max-new-tokens",
        "8",
        "--fusion",
        "token",
        "--trace",
    )
    assert result.exit_code == 0
    sources = result.stdout.rstrip("\n").rpartition("\n\n")[2].splitlines()
    assert len(sources) == 2
    assert all(line.startswith("* ") for line in sources)
    assert "fusion token, mode doc, causal blocks" in result.stderr
    assert result.stderr.count(" likelihood -") == 2
    assert "first_token" in result.stderr


def test_a_source_names_the_other_documents_of_its_text(run_model, tmp_path):
    rows = [{"id": name, "text": "Ann has a red ball."} for name in "abc"]
    rows.append({"id": "d", "text": "It rains on Sundays."})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = str(tmp_path / "store")
    assert run_model("index", str(tmp_path / "rows.jsonl"), "--to", place).exit_code == 0
    result = run_model(
        *("ask", "Who has a ball?", "--store", place),
        *("--top-k", "2", "--fusion", "joint", "--max-new-tokens", "4"),
    )
    lines = result.stdout.rstrip("\n").rpartition("\n\n")[2].splitlines()
    (ball,) = [line for line in lines if line.endswith("  Ann has a red ball.")]
    (rain,) = [line for line in lines if line.endswith("  It rains on Sundays.")]
    place, others = ball.removeprefix("* ").split("  ")[1:3]
    named = [place.removesuffix(":0-19"), *others[len("(also in: ") : -1].split(", ")]
    folder = tmp_path.name
    assert sorted(named) == [f"{folder}/rows.jsonl#{name}" for name in "abc"]
    assert others.startswith("(also in: ")
    assert "also in" not in rain


def test_json_holds_answer_sources_and_trace(run_model, store):
    result = run_model(
        "ask",
        "What colour is the ball?",
        "--store",
        str(store),
        "--filter",
        "lang=en",
        "--json",
        "--max-new-tokens",
        "4",
        "--mode",
        "doc-query",
        "--blocks",
        "causal",
        "--hybrid",
        "--rerank",
        "3",
    )
    said = json.loads(result.stdout)
    assert [source["title"] for source in said["sources"]] == ["Ball"]
    assert said["trace"]["mode"] == "doc-query"
    assert said["trace"]["tokens_prefilled"] > 0


def test_a_store_is_looked_after(run, store):
    stats = dict(line.split("\t") for line in run("store", "stats", str(store)).stdout.splitlines())
    assert stats["blocks"] == "4"
    verified = run("store", "verify", str(store))
    assert (verified.exit_code, verified.stdout) == (
        0,
        "4 blocks, 0 damaged\n4 passages, 0 problems\n",
    )
    freed = run("store", "gc", str(store)).stdout
    assert freed.endswith("bytes given back\n")
    (store / "media").mkdir()
    (store / f"media/{'0' * 32}.png").write_bytes(b"12345")  # of a run that was killed
    assert run("store", "gc", str(store)).stdout == "5 bytes given back\n"
    (store / "media").rmdir()
    assert run("store", "rebuild", str(store)).stdout == (
        "4 blocks found\n4 passages kept, 0 embedded again\n"
    )


def test_what_a_store_holds_is_listed(run, notes, store):
    listed = run("store", "list", str(store))
    name = notes.name
    assert listed.exit_code == 0
    assert [line.split("\t") for line in listed.stdout.splitlines()] == [
        [f"{name}/cats.md", "Cats", "1"],
        [f"{name}/rows.jsonl#1", "Ball", "1", "lang=en"],
        [f"{name}/rows.jsonl#2", "", "1", "lang=de"],
        [f"{name}/water.txt", "", "1"],
    ]
    assert listed.stderr == "4 documents with 4 passages\n"
    lines = run("store", "list", str(store), "--json").stdout.splitlines()
    assert json.loads(lines[1]) == {
        "id": f"{name}/rows.jsonl#1",
        "title": "Ball",
        "passages": 1,
        "metadata": {"lang": "en"},
    }


def test_a_line_has_room_for_some_metadata_and_json_for_all(run_model, run, tmp_path):
    row = {"text": "one", "id": "a", "a": "x\ty", "b": 2, "c": True, "d": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    run_model("index", str(tmp_path / "rows.jsonl"), "--to", str(tmp_path / "s"))
    (line,) = run("store", "list", str(tmp_path / "s")).stdout.splitlines()
    assert line.split("\t")[1:] == ["", "1", "a=x y, b=2, c=True, ..."]
    said = json.loads(run("store", "list", str(tmp_path / "s"), "--json").stdout)
    assert said["metadata"] == {"a": "x\ty", "b": 2, "c": True, "d": None}


def test_documents_are_deleted_with_their_blocks(run, run_words, notes, store):
    ids = [f"{notes.name}/cats.md", f"{notes.name}/rows.jsonl#1"]
    deleted = run_words("store", "delete", str(store), *ids, ids[0], "absent", "catz.md")
    assert deleted.exit_code == 0
    assert deleted.stdout == "".join(f"deleted {each}: 1 passages\n" for each in ids)
    assert [line[:24] for line in deleted.stderr.splitlines()] == [
        "gritlm: unknown: 'absent",
        "gritlm: unknown: 'catz.m",
    ]
    assert len(run("store", "list", str(store)).stdout.splitlines()) == 2
    assert "2 blocks, 0 damaged" in run("store", "verify", str(store)).stdout


def test_deleting_nothing_is_an_error_with_the_nearest_id(run_words, notes, store):
    result = run_words("store", "delete", str(store), f"{notes.name}/cat.md", "absent")
    assert result.exit_code == 2
    assert f"did you mean '{notes.name}/cats.md'?" in result.stderr
    assert "gritlm store list" in result.stderr
    assert result.stdout == ""


def test_ctrl_c_tells_what_went_in_and_the_same_command_goes_on(
    start, run, run_model, model_options, tmp_path
):
    rows = [{"id": n, "text": f"{n} {'word ' * 100}"} for n in range(3000)]
    source, place = tmp_path / "many.jsonl", tmp_path / "store"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = start(["index", str(source), "--to", str(place), *model_options])
    ends = time.monotonic() + 60
    written = (place / "index").rglob  # one file of rows a batch
    while len(list(written("data/*.lance"))) < 2 and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    documents = int(stdout.split()[1])
    assert 0 < documents < 3000
    assert re.match(rf"added {documents} documents? ".encode(), stdout)
    assert b"gritlm: stopped: " in stderr
    assert b"the same command goes on from there" in stderr
    assert b"Traceback" not in stderr
    assert run("store", "verify", str(place)).exit_code == 0
    there = len(run("store", "list", str(place)).stdout.splitlines())
    assert documents <= there <= documents + 64  # what LanceDB was at is finished behind us
    source.write_text("".join(json.dumps(row) + "\n" for row in rows[: there + 5]))
    again = run_model("index", str(source), "--to", str(place))
    assert again.stdout.startswith("added 5 documents")


def test_a_damaged_table_says_what_to_do_and_that_mends_it(run, run_model, notes, store):
    for file in (store / "index").rglob("*.manifest"):
        file.write_bytes(b"nonsense" * 9)
    for words in (("store", "list", str(store)), ("index", str(notes), "--to", str(store))):
        failed = (run if words[0] == "store" else run_model)(*words)
        assert failed.exit_code == 2
        assert f"run: gritlm store rebuild {store}" in failed.stderr
    assert run("store", "verify", str(store)).exit_code == 1
    assert "4 passages kept" in run("store", "rebuild", str(store)).stdout
    again = run_model("index", str(notes), "--to", str(store))
    assert again.stdout.startswith("added 0 documents")
    assert run("store", "verify", str(store)).exit_code == 0


def test_a_table_that_is_lost_as_a_whole_is_set_aside_and_indexed_again(
    run, run_model, notes, store
):
    shutil.rmtree(store / "index" / "passages.lance" / "_versions")
    (store / "index" / "passages.checks").unlink()
    for words in (("store", "list", str(store)), ("index", str(notes), "--to", str(store))):
        failed = (run if words[0] == "store" else run_model)(*words)
        assert failed.exit_code == 2
        assert len(failed.stderr.splitlines()) == 1
        assert f"run: gritlm store rebuild {store}" in failed.stderr
    assert "index the documents again" in run("store", "rebuild", str(store)).stdout
    again = run_model("index", str(notes), "--to", str(store))
    assert again.stdout.startswith("added 4 documents")
    assert "4 key/value blocks" in again.stdout


def test_a_store_in_the_folder_that_is_indexed_is_no_document(run_model, tmp_path):
    (tmp_path / "a.txt").write_text("Water boils.")
    for added in ("1 document ", "0 documents "):
        result = run_model("index", str(tmp_path), "--to", str(tmp_path / "store"))
        assert result.stdout.startswith(f"added {added}")
        assert "skipped: 0;" in result.stdout
        assert "skipped" not in result.stderr


def flip(store: Path) -> None:
    """A bit in every page of the arena but the first."""
    (arena,) = (store / "kv").rglob("*.kv")
    content = bytearray(arena.read_bytes())
    for at in range(4096, len(content), 4096):
        content[at] ^= 1
    arena.write_bytes(content)


def test_damage_is_named_answered_around_and_mended(run, run_model, notes, store):
    ask = ("ask", "Who sleeps?", "--store", str(store), "--json", "--max-new-tokens", "6")
    before = json.loads(run_model(*ask).stdout)["answer"]
    flip(store)
    verified = run("store", "verify", str(store))
    assert (verified.exit_code, verified.stdout) == (
        1,
        "0 blocks, 4 damaged\n4 passages, 0 problems\n",
    )
    assert verified.stderr.count("gritlm: damaged: ") == 4
    after = json.loads(run_model(*ask).stdout)
    assert after["answer"] == before
    assert "computed" in after["trace"]["bytes_read"]
    again = run_model("index", str(notes), "--to", str(store))
    assert again.stdout.startswith("added 0 documents")
    verified = run("store", "verify", str(store))
    assert (verified.exit_code, verified.stdout) == (
        0,
        "4 blocks, 0 damaged\n4 passages, 0 problems\n",
    )


def test_damage_that_was_found_when_the_store_was_opened_is_named_too(run, store):
    (arena,) = (store / "kv").rglob("*.kv")
    os.truncate(arena, arena.stat().st_size - 1)
    verified = run("store", "verify", str(store))
    assert (verified.exit_code, verified.stdout) == (
        1,
        "3 blocks, 1 damaged\n4 passages, 0 problems\n",
    )
    (store / "kv" / "index.lmdb" / "data.mdb").write_bytes(b"")
    verified = run("store", "verify", str(store))
    assert (verified.exit_code, verified.stdout) == (
        1,
        "3 blocks, 1 damaged\n4 passages, 0 problems\n",
    )
    assert "index: rebuilt" in verified.stderr


@pytest.mark.parametrize("why", ["another writer holds this store", "cannot be written to"])
def test_damage_is_only_named_where_the_store_cannot_be_written(run, store, why):
    flip(store)
    lock = store / "kv" / "writer.lock"
    with ExitStack() as held:
        if why.startswith("another"):
            held.enter_context(KVStore.open(store / "kv", None))
        else:
            lock.unlink()
            lock.mkdir()
        verified = run("store", "verify", str(store))
    assert (verified.exit_code, verified.stdout) == (
        1,
        "4 blocks, 4 damaged\n4 passages, 0 problems\n",
    )
    (line,) = [line for line in verified.stderr.splitlines() if why in line]
    assert line.startswith("gritlm: nothing is removed: ")


def test_what_is_no_store_is_not_verified(error_of, tmp_path):
    assert "holds no store" in error_of("store", "verify", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ask", "Why?", "--store", "absent"), "there is no store here"),
        (("store", "stats", "absent"), "absent holds no store"),
        (("store", "list", "absent"), "there is no store here"),
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


def test_the_passage_that_answers_is_marked():
    source = Source("p", "notes/a.txt", "", "It rains.", 0, 9, 0.5)
    assert _line(source) == "* 0.500  notes/a.txt:0-9  It rains.\n"
    assert _line(replace(source, used=False)) == "  0.500  notes/a.txt:0-9  It rains.\n"
    assert _line(replace(source, page=3)) == "* 0.500  notes/a.txt, page 3  It rains.\n"


def test_candidates_are_reranked_by_likelihood(run_model, store):
    ask = ("ask", "Does it rain?", "--store", str(store), "--rerank", "4", "--json")
    brief = ("--max-new-tokens", "2", "--rerank-method")
    found = json.loads(run_model(*ask, *brief, "likelihood").stdout)
    assert found["trace"]["tokens_reranked"] > 0
    assert run_model(*ask, *brief, "cosine").exit_code == 2
