"""Lance tables as input and output of bulk embedding."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("lancedb", reason="LanceDB is not installed")

import lancedb
import pyarrow as pa

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.scale import BulkOptions, PartOptions, VectorForm, WorkerPool, embed
from gritlm.scale.bulk import lance, lance_output
from gritlm.scale.bulk.part_rows import read_part
from gritlm.scale.bulk.parts import input_files, plan
from gritlm.scale.storage import Location, StorageError
from tests.scale import collection

pytestmark = collection.WARNINGS
ROWS = 60
BAD = {"id": "bad", "text": ""}


@pytest.fixture
def database(tmp_path):
    found = lancedb.connect(tmp_path)
    found.create_table("rows", pa.Table.from_pylist([*collection.rows(ROWS), BAD]))
    return found


def options(folder, **changes):
    model = {"model_name_or_path": str(folder), "dtype": "float32", "device": "cpu"}
    chosen = {"parts": PartOptions(rows=25), "workers": WorkerPool(1), "progress": False}
    return BulkOptions(model=model, **chosen | changes)


def test_row_ranges_are_every_row_once_also_after_a_change(database, tmp_path):
    columns = PartOptions(rows=7)
    files = input_files([str(tmp_path / "rows.lance")])
    parts = plan(files, columns)
    database.open_table("rows").delete("id != 'bad'")
    read = [read_part(part, files[part.file], columns) for part in parts]
    assert [key for part in read for key in part.ids] == [
        row["id"] for row in collection.rows(ROWS)
    ]
    assert [row.id for part in read for row in part.rejected] == ["bad"]
    with pytest.raises(InputError, match=r"rows\.lance has no column 'txt'"):
        plan(files, PartOptions(field="txt"))
    with pytest.raises(StorageError, match=r"none\.lance is no Lance table; check the path"):
        input_files([str(tmp_path / "none.lance")])


@pytest.mark.usefixtures("ray_on_this_machine")
def test_vectors_go_from_a_table_to_a_table(database, tmp_path, folder):
    source, output = tmp_path / "rows.lance", tmp_path / "vectors.lance"
    chosen = options(folder, vectors=VectorForm(16))
    (output / "data").mkdir(parents=True)  # of a job that was killed while it wrote the table
    (output / "data" / "part.lance").write_bytes(b"")
    report = embed(source, output, chosen)
    assert (report.rows, report.rejected, report.parts) == (ROWS, 1, 3)
    table = database.open_table("vectors").to_arrow()
    assert table["id"].to_pylist() == [row["id"] for row in collection.rows(ROWS)]
    model = GritLM(folder, dtype="float32", device="cpu", mode="embedding")
    texts = [row["text"] for row in collection.rows(ROWS)]
    alone_ND = model.encode(texts, truncate_dim=16)
    assert np.abs(np.array(table["embedding"].to_pylist()) - alone_ND).max() < 1e-5
    (rejected,) = database.open_table("vectors_rejected").to_arrow().to_pylist()
    assert rejected == {"id": "bad", "reason": "the text is empty"}
    assert not list(tmp_path.glob("*.staging*"))
    again = embed(source, output, chosen)  # complete: nothing starts
    assert (again.rows, again.rejected, again.resumed) == (ROWS, 1, 3)
    with pytest.raises(InputError, match=r"vectors\.lance is a table of another job"):
        embed(source, output, options(folder))
    with pytest.raises(InputError, match=r"rows\.lance is a table of another job or with other"):
        embed(source, source, chosen)
    assert database.open_table("rows").count_rows() == ROWS + 1


def test_a_table_replaces_one_of_an_earlier_attempt(tmp_path):
    target = Location.of(tmp_path / "x.lance")
    schema = pa.schema([("id", pa.string())], metadata={b"gritlm.job": b"abc"})
    for content in (["a", "b"], ["c"]):
        lance.write_table(target, schema, iter([pa.record_batch([content], schema=schema)]))
    assert lance.open_table(target).to_arrow()["id"].to_pylist() == ["c"]
    assert lance_output.is_written(target, "abc")
    assert lance_output.count(target, rejected=True) == 0
