"""Bulk embedding from and to an object store, a server of moto on this machine."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("moto", reason="moto is not installed")

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.scale import BulkOptions, PartOptions, WorkerPool, embed
from gritlm.scale.bulk import lance
from gritlm.scale.bulk import only_job as lock
from gritlm.scale.bulk.only_job import only_job
from gritlm.scale.bulk.staging import Staging
from gritlm.scale.storage import Location, StorageError, explained
from tests.scale import collection, object_store
from tests.scale.object_store import KEY, SECRET, address, names

pytestmark = collection.WARNINGS


@pytest.fixture(scope="module")
def server():
    """Address of an S3 server, with the bucket ``data``."""
    with object_store.started() as found:
        yield found


@pytest.mark.usefixtures("ray_on_this_machine")
def test_vectors_go_from_a_bucket_to_a_bucket(server, tiny_model, tmp_path):
    folder = tiny_model()
    rows = collection.rows(60)
    path = collection.write_lines(tmp_path / "rows.jsonl", [*rows, {"id": "bad", "text": ""}])
    server[0].upload_file(str(path), "data", "in/rows.jsonl")
    options = BulkOptions(
        model={"model_name_or_path": str(folder), "dtype": "float32", "device": "cpu"},
        parts=PartOptions(line_bytes=2048),
        workers=WorkerPool(1, 1),
        progress=False,
    )
    source, output = address(server, "data/in"), address(server, "data/out")
    report = embed(source, output, options)
    assert (report.rows, report.rejected) == (60, 1)
    assert SECRET not in str(report)
    last = f"/_rejected/part-{report.parts - 1:07d}.parquet"
    assert {"/_SUCCESS", "/_manifest.json", last} <= set(names(server, "out"))
    assert names(server, "out.staging") == []
    tables = []
    for name in names(server, "out"):
        if name.startswith("/part-"):
            content = server[0].get_object(Bucket="data", Key=f"out{name}")["Body"].read()
            tables.append(pq.read_table(io.BytesIO(content)))
    ids = [key for table in tables for key in table["id"].to_pylist()]
    vectors_ND = np.array([row for table in tables for row in table["embedding"].to_pylist()])
    assert ids == [row["id"] for row in rows]
    model = GritLM(folder, dtype="float32", device="cpu", mode="embedding")
    assert np.abs(vectors_ND - model.encode([row["text"] for row in rows])).max() < 1e-5
    manifest = server[0].get_object(Bucket="data", Key="out/_manifest.json")["Body"].read()
    assert SECRET.encode() not in manifest
    assert embed(source, output, options).resumed == report.parts


def test_a_bucket_that_is_not_there_is_named_without_credentials(server):
    place = Location.of(address(server, "nobucket/out"))
    with pytest.raises(StorageError, match=r"s3://nobucket/out.*cannot be written") as caught:
        place.require_writable()
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bucket_refuses_a_second_job_until_its_lock_is_old(server, monkeypatch):
    staging = Staging.of(Location.of(address(server, "data/locked")))
    with only_job(staging):
        with (
            pytest.raises(InputError, match=r"another job writes .*if it was killed"),
            only_job(staging),
        ):
            raise AssertionError("two jobs write")
        assert len(names(server, "locked.staging/_lock")) == 1
    assert names(server, "locked.staging/_lock") == []
    staging.folder.child("_lock-of-a-killed-job").write(b"gritlm")
    monkeypatch.setattr(lock, "LEASE_SECONDS", -1.0)
    with only_job(staging):
        assert "-of-a-killed-job" not in names(server, "locked.staging/_lock")


def test_credentials_that_are_missing_are_explained():
    with (
        pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught,
        explained(f"s3://{KEY}:{SECRET}@data/in", "read"),
    ):
        raise OSError("AWS Error ACCESS_DENIED during HeadObject operation")
    assert str(caught.value).startswith("s3://data/in cannot be read with the credentials")


def test_a_lance_table_is_written_to_a_bucket_and_read(server):
    pytest.importorskip("lancedb", reason="LanceDB is not installed")
    target = Location.of(address(server, "data/tables/x.lance"))
    assert lance.find_table(target) is None
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    batch = pa.record_batch([["a", "b", "c"], ["one", "two", "three"]], schema=schema)
    lance.write_table(target, schema, iter([batch]))
    version = lance.open_table(target).version
    found = lance.read_rows(target, version, range(1, 3), {"id", "other"})
    assert found.to_pylist() == [{"id": "b"}, {"id": "c"}]
    wrong = Location.of(address(server, "none/tables/x.lance"))
    with pytest.raises(StorageError, match="cannot be written") as raised:
        lance.write_table(wrong, schema, iter([batch]))
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
