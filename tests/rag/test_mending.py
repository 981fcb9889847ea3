"""Damaged rows and files of a table: left out, found, and made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gritlm.rag.engine import RagEngine
from gritlm.rag.index import passage_rows, repair, schema, table
from gritlm.rag.index.index import Index
from gritlm.rag.index.passage_table import IndexFailedError
from gritlm.rag.retrieve import Search
from gritlm.rag.types import Passage
from tests.rag import test_index as rows
from tests.rag.conftest import TEXTS

QUESTION = rows.vectors(1)[0]
OTHER = [1.0] + [0.0] * (rows.D - 1)  # a vector


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Three documents of two passages."""
    made = Index.open(tmp_path / "index", rows.MAKER)
    for number, name in enumerate("abc"):
        rows.put(made, rows.document(name, f"{name} one", f"{name} two", seed=number, lang="en"))
    return made


def embed(passages: list[Passage]) -> np.ndarray:
    known = {
        f"{name} {word}": rows.vectors(2, number)[place]
        for number, name in enumerate("abc")
        for place, word in enumerate(("one", "two"))
    }
    return np.stack([known[passage.embedded] for passage in passages])


@pytest.mark.parametrize(
    ("column", "value", "part"),
    [
        ("title", "other", "fields"),
        ("number", 7, "fields"),
        ("end", 1, "fields"),
        ("content", "v2", "fields"),
        ("metadata", "{}", "metadata"),
        ("text", "other words", "text"),
        ("vector", OTHER, "vector"),
    ],
)
@pytest.mark.parametrize("hybrid", [False, True])
def test_a_damaged_row_is_in_no_hit_list_and_reported(index, caplog, column, value, part, hybrid):
    index.table.lance.update(where="text = 'b two'", values={column: value})
    warnings: list[str] = []
    found = index.search(QUESTION, top_k=6, text="two", hybrid=hybrid, warnings=warnings)
    assert rows.texts(found) == {"a one", "a two", "b one", "c one", "c two"}
    (damage,) = index.damages
    assert (damage.document_id, damage.part) == ("b", part)
    assert len(warnings) == 1
    assert "run: gritlm store rebuild" in warnings[0]
    assert len(caplog.records) == 1  # once, however often it is met


@pytest.mark.parametrize("column", ["document_id", "title", "metadata", "passages"])
def test_a_damaged_document_is_in_no_listing(index, column):
    value = 9 if column == "passages" else '{"lang": "fr"}'
    index.table.lance.update(where="text = 'b one'", values={column: value})
    assert [each.id for each in index.documents()] == ["a", "c"]
    assert set(index.known()) == ({"a", "b", "c"} if column == "metadata" else {"a", "c"})
    assert len(index.damages) == 1


def test_a_damaged_text_is_in_no_list_of_passages(index):
    index.table.lance.update(where="text = 'b one'", values={"text": "other"})
    assert [each.text for each in index.passages("b")] == ["b two"]


@pytest.mark.parametrize(
    ("column", "value", "kept", "embedded", "dropped"),
    [
        ("text", "other", 4, 0, ("b",)),
        ("metadata", "{}", 4, 0, ("b",)),
        ("vector", OTHER, 6, 1, ()),
    ],
)
def test_rebuilding_keeps_what_is_sound_and_names_what_is_lost(
    index, tmp_path, column, value, kept, embedded, dropped
):
    before = index.search(QUESTION, top_k=6)
    index.table.lance.update(where="text = 'b two'", values={column: value})
    place = str(tmp_path / "index")
    assert len(repair.examine(place, index.table.lance).problems) >= 1
    mended = repair.rebuild(place, embed)
    assert (mended.passages, mended.embedded, mended.dropped) == (kept, embedded, dropped)
    again = Index.open(place, rows.MAKER)
    assert repair.examine(place, again.table.lance).problems == []
    assert set(again.known()) == {"a", "b", "c"} - set(dropped)
    after = again.search(QUESTION, top_k=6)
    assert after == before if not dropped else len(after) == kept
    assert again.search(QUESTION, top_k=1, text="c two", hybrid=True)


def test_without_a_model_the_document_of_a_damaged_vector_is_lost(index, tmp_path):
    index.table.lance.update(where="text = 'b two'", values={"vector": OTHER})
    mended = repair.rewrite(str(tmp_path / "index"), index.table.lance, None)
    assert (mended.passages, mended.dropped) == (4, ("b",))


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at % len(content)] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["_versions", "_deletions", "_indices"])
def test_a_changed_file_of_the_table_is_named_when_it_is_opened_and_mended(tmp_path, kind):
    place = tmp_path / "index"
    made = Index.open(place, rows.MAKER)
    rows.put(made, rows.document("a", "one", "two"), rows.document("b", "three"))
    made.delete(["b"])
    made.optimise()
    rows.put(made, rows.document("c", "four"), rows.document("d", "five"))
    made.delete(["d"])
    before = made.search(QUESTION, top_k=5)
    newest = min(path.name for path in (place / "passages.lance/_versions").glob("*.manifest"))
    files = [f for f in (place / "passages.lance" / kind).rglob("*") if f.is_file()]
    for file in [f for f in files if kind != "_versions" or f.name == newest]:
        whole = file.read_bytes()
        for at in (9, len(whole) // 2):
            flip(file, at)
            with pytest.raises(IndexFailedError, match=rf"{kind}/.* run: gritlm store rebuild"):
                Index.open(place, rows.MAKER)
            file.write_bytes(whole)
    flip(file, 9)
    assert repair.rebuild(str(place), embed).dropped == ()
    again = Index.open(place, rows.MAKER)
    assert again.search(QUESTION, top_k=5) == before
    assert set(again.known()) == {"a", "c"}


def test_a_table_without_its_versions_is_one_line_and_mended(index, tmp_path):
    shutil.rmtree(tmp_path / "index/passages.lance/_versions")
    with pytest.raises(IndexFailedError, match=r"_versions/.*; run: gritlm store rebuild"):
        Index.open(tmp_path / "index", rows.MAKER)
    assert repair.rebuild(str(tmp_path / "index"), embed).passages == 6
    assert set(Index.open(tmp_path / "index", rows.MAKER).known()) == {"a", "b", "c"}


def test_a_file_of_rows_that_cannot_be_read_costs_its_own_documents_alone(index, tmp_path):
    (first, *_) = sorted((tmp_path / "index/passages.lance/data").iterdir())
    first.write_bytes(b"nonsense" * 99)
    mended = repair.rebuild(str(tmp_path / "index"), embed)
    again = Index.open(tmp_path / "index", rows.MAKER)
    assert mended.passages == len(again) == 4
    assert len(again.known()) == 2
    assert mended.dropped == ("",)  # its id is gone with it
    assert "index all documents again" in repair.summary(mended)[1]


def old_table(place: Path) -> None:
    """A table as version 1 made it: without checksums."""
    made = Index.open(place, rows.MAKER)
    rows.put(made, rows.document("a", "one", "two"), rows.document("b", "three"))
    found = made.table.lance.to_arrow().drop_columns([passage_rows.COLUMN])
    about = {
        schema.KEY: found.schema.metadata[schema.KEY].replace(b'"version": 2', b'"version": 1')
    }
    shutil.rmtree(place)
    table.lancedb.connect(place).create_table(table.TABLE, found.replace_schema_metadata(about))


def test_a_table_of_the_version_before_is_read_and_gets_checksums_with_its_first_change(tmp_path):
    place = tmp_path / "index"
    old_table(place)
    reader = Index.open(place, rows.MAKER, create=False)
    assert len(reader.search(QUESTION, top_k=5, text="one")) == 3
    assert not passage_rows.has_checks(reader.table.lance.schema)
    writer = Index.open(place, rows.MAKER)
    rows.put(writer, rows.document("c", "four"))
    assert passage_rows.has_checks(writer.table.lance.schema)
    assert set(Index.open(place, rows.MAKER).known()) == {"a", "b", "c"}
    assert b'"version": 2' in writer.table.lance.schema.metadata[schema.KEY]
    assert writer.delete(["a"]) == 2
    assert repair.examine(str(place), writer.table.lance).problems == []


def test_rebuilding_gives_a_table_of_the_version_before_its_checksums(tmp_path):
    old_table(tmp_path / "index")
    assert repair.rebuild(str(tmp_path / "index"), embed).passages == 3
    assert passage_rows.has_checks(Index.open(tmp_path / "index", rows.MAKER).table.lance.schema)


def test_an_id_that_was_made_from_the_content_proves_a_row_without_a_checksum():
    row = {"document_id": "d", "title": "T", "text": "words", "number": 0}
    row["id"] = passage_rows.passage_id("d", "T words", 0)
    assert passage_rows.damaged_part(row) is None
    assert passage_rows.damaged_part(row | {"text": "swords"}) == "text"


def test_numbers_in_metadata_keep_their_checksum():
    schema_1 = schema.table_schema(rows.MAKER)
    values = {"a": 1e22, "b": -0.0, "c": 5e-324, "d": 2**63 - 1, "e": 1, "f": "\x00é", "g": None}
    made = schema.to_arrow(rows.document("d", "x", **values), {"d": "v"}, rows.MAKER)
    assert isinstance(made, pa.Table)
    assert made.schema == schema_1
    (row,) = passage_rows.rows_of(made)
    assert passage_rows.damaged_part(row) is None
    assert passage_rows.damaged_part(row | {"metadata": row["metadata"].replace("1e+22", "2e+22")})


def test_an_answer_says_what_was_left_out_and_what_to_do(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add([{"id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)])
        engine.index.table.lance.update(where="document_id = 'd0'", values={"text": "Lies."})
        answer = engine.answer(
            "What colour is the ball?", top_k=5, fusion="joint", max_new_tokens=2
        )
        assert {source.document_id for source in answer.sources} == {"d1", "d2", "d3", "d4"}
        (warning,) = answer.trace.warnings
        assert "document 'd0'" in warning
        assert f"run: gritlm store rebuild {tmp_path / 'store'}" in warning
        assert len(engine.find("ball", Search(top_k=5))) == 4
        engine.index.table.lance.update(values={"text": "Lies."})
        with pytest.raises(
            IndexFailedError, match=r"no passages to answer from: passage .* rebuild"
        ):
            engine.answer("What colour is the ball?")
