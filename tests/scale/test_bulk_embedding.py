"""Bulk embedding on Ray: the vectors of one process, also after kills, and only when it commits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("ray", reason="Ray is not installed")

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import GritLMError, InputError, ModelError
from gritlm.lm.vectors import to_precision, truncated
from gritlm.scale import BulkOptions, PartOptions, VectorForm, WorkerPool, embed
from gritlm.scale.bulk.embedding_job import _description
from gritlm.scale.bulk.only_job import only_job
from gritlm.scale.bulk.part_rows import PartRows
from gritlm.scale.bulk.quantising import Extremes, QuantisedWriter
from gritlm.scale.bulk.staging import Staging, part_file, read_vectors
from gritlm.scale.bulk.tokenising import PartTokeniser, TokenOptions
from gritlm.scale.bulk.vector_worker import EmbeddedPart
from gritlm.scale.storage import Location, shown
from tests.scale import collection

pytestmark = collection.WARNINGS
ROWS = 300


@pytest.fixture(scope="module")
def expected(folder):
    model = GritLM(folder, dtype="float32", device="cpu", mode="embedding")
    return model.encode([row["text"] for row in collection.rows(ROWS)])


def options(folder, *, line_bytes=4096, **changes):
    model = {"model_name_or_path": str(folder), "dtype": "float32", "device": "cpu"}
    parts = PartOptions(line_bytes=line_bytes, rows=50)
    return BulkOptions(**{"model": model, "parts": parts, "progress": False} | changes)


def staged(output):
    return sorted(output.with_name(f"{output.name}.staging").glob("part-*.parquet"))


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


@pytest.mark.usefixtures("ray_on_this_machine")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_table_of_one_process(tmp_path, folder, expected, workers):
    rows = collection.rows(ROWS)
    collection.write_parquet(tmp_path / "a.parquet", rows[:120], group=70)
    bad = [{"id": "bad", "text": ""}, {"id": "worse", "text": 3}]
    collection.write_lines(tmp_path / "b.jsonl", rows[120:] + bad)
    sources = [tmp_path / "a.parquet", tmp_path / "b.jsonl"]
    output = tmp_path / "out"
    killed = []
    thread = threading.Thread(target=kill_a_worker, args=(output, killed))
    if workers == 2:  # and with a worker that is killed
        thread.start()
    chosen = options(folder, line_bytes=1024, workers=WorkerPool(workers, workers))
    report = embed(sources, output, chosen)
    if workers == 2:
        thread.join()
        assert killed
    ids, vectors_ND = collection.table_of(output)
    assert ids == [row["id"] for row in rows]
    assert np.abs(vectors_ND - expected).max() < 1e-5
    assert set(collection.rejected_of(output)) == {"bad", "worse"}
    assert (report.rows, report.rejected, report.resumed) == (ROWS, 2, 0)
    assert (output / "_SUCCESS").exists()
    assert not staged(output)
    before = (output / "_SUCCESS").stat().st_mtime_ns
    again = embed(sources, output, chosen)  # complete: nothing starts
    assert (again.rows, again.rejected, again.resumed) == (ROWS, 2, report.parts)
    assert (output / "_SUCCESS").stat().st_mtime_ns == before


@pytest.mark.usefixtures("ray_on_this_machine")
@pytest.mark.parametrize(
    "form", [VectorForm(8), VectorForm(24, "ubinary"), VectorForm(24, "int8")], ids=str
)
def test_dimensions_and_precision_are_those_of_encode(tmp_path, folder, expected, form):
    """Values of 8 bits are scaled between the extremes of all parts."""
    source = collection.write_lines(tmp_path / "rows.jsonl", collection.rows(ROWS))
    output = tmp_path / "out"
    embed(source, output, options(folder, vectors=form, workers=WorkerPool(2)))
    normalised = torch.from_numpy(expected)
    if form.truncate_dim:
        normalised = truncated(normalised, form.truncate_dim, normalised=True)
    alone_ND = to_precision(normalised.numpy(), form.precision)
    table = pq.read_table(output).sort_by("id")
    found_ND = np.array(table["embedding"].to_pylist())
    assert table["id"].to_pylist() == [row["id"] for row in collection.rows(ROWS)]
    assert table.schema.field("embedding").type.value_type == pa.from_numpy_dtype(alone_ND.dtype)
    if form.precision == "float32":
        assert np.abs(found_ND - alone_ND).max() < 1e-5
    else:  # a value within 1e-5 of the border between two levels
        differing = found_ND != alone_ND
        assert differing.mean() < 0.002
        if form.precision == "int8":
            assert np.abs(found_ND - alone_ND.astype(int)).max() <= 1
    assert {path.name for path in tmp_path.iterdir()} == {"out", "rows.jsonl"}


def test_quantising_goes_on_with_the_parts_that_are_left(tmp_path):
    staging = Staging.of(Location.of(tmp_path / "out"), scaled=True)
    staging.begin({"version": 1})
    values = np.array([[0.0, -1.0], [0.5, 1.0]], dtype=np.float32)
    for number, row_ND in enumerate(values[:, None]):
        staging.write(EmbeddedPart(number, [f"d{number}"], row_ND, [], 1, 0, "abc"))
    batch = {"part": np.arange(2)}
    extremes = Extremes(staging).of_parts(batch)
    low_D, high_D = extremes["low"][0], extremes["high"][0]
    assert (low_D.tolist(), high_D.tolist()) == ([0.0, -1.0], [0.5, 1.0])
    writer = QuantisedWriter(staging, low_D, high_D, "uint8")
    writer.write_parts({"part": np.array([0])})
    first = part_file(staging.folder, 0)
    before = Path(first.path).stat().st_mtime_ns
    writer.write_parts(batch)
    assert Path(first.path).stat().st_mtime_ns == before
    found = [read_vectors(part_file(staging.folder, number)) for number in range(2)]
    expected_ND = to_precision(values, "uint8")
    assert np.array_equal(np.concatenate([each.vectors_ND for each in found]), expected_ND)
    assert [(each.ids, each.fingerprint) for each in found] == [(["d0"], "abc"), (["d1"], "abc")]


def test_a_killed_job_goes_on_and_embeds_no_part_twice(tmp_path, folder, ray_on_this_machine):
    source = collection.write_lines(tmp_path / "rows.jsonl", collection.rows(ROWS))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "gritlm", "embed", "--ray", "--input", source]
    command += ["--output", output, "--model", folder, "--dtype", "float32", "--device", "cpu"]
    command += ["--workers", "1", "--address", ray_on_this_machine, "--part-bytes", "512"]
    job = subprocess.Popen(list(map(str, command)))
    try:
        wait_for(lambda: len(staged(output)) >= 3 or job.poll() is not None)
        with pytest.raises(InputError, match="another job writes"):
            embed(source, output, by_command(folder))
    finally:
        job.kill()
        job.wait()
    assert job.returncode == -signal.SIGKILL
    assert not output.exists()
    before = {path.name: path.stat().st_mtime_ns for path in staged(output)}
    report = embed(source, output, by_command(folder))
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}
    assert 3 <= len(before) <= report.resumed < report.parts
    assert before.items() <= after.items()
    ids, vectors_ND = collection.table_of(output)
    assert ids == [row["id"] for row in collection.rows(ROWS)]
    model = GritLM(folder, dtype="float32", device="cpu", mode="embedding")
    texts = [row["text"] for row in collection.rows(ROWS)]
    alone_ND = model.encode(texts, instruction=gritlm_instruction(""))
    assert np.abs(vectors_ND - alone_ND).max() < 1e-5


def by_command(folder):
    """The options of the command in the test above."""
    parts = PartOptions(line_bytes=512)
    return options(folder, parts=parts, instruction=gritlm_instruction(""))


def kill_a_worker(output, killed):
    """Kill a worker of this process when some parts are there."""
    wait_for(lambda: len(staged(output)) >= 1)
    for process in psutil.process_iter(["cmdline"]):
        is_worker = "VectorWorker" in " ".join(process.info["cmdline"] or [])
        if is_worker and psutil.Process() in process.parents():
            killed.append(process.pid)
            process.kill()
            return


def test_long_texts_are_rejected_if_they_are_not_to_be_cut(tmp_path, folder):
    rows = PartRows(["short", "long", "surrogate"], ["a", "word " * 90, "\ud800"], [])
    cut = PartTokeniser(str(folder), None, TokenOptions(20)).tokenise(0, rows)
    assert (cut.ids, cut.cut, cut.lengths[1]) == (["short", "long"], 1, 20)
    whole = PartTokeniser(str(folder), None, TokenOptions(20, truncate=False)).tokenise(0, rows)
    assert whole.ids == ["short"]
    reasons = {row.id: row.reason for row in whole.rejected}
    assert "tokens, more than 20" in reasons["long"]
    assert "lone surrogate" in reasons["surrogate"]
    assert sum(whole.lengths) == len(whole.tokens)


def test_an_output_of_another_job_is_refused(tmp_path, folder):
    source = collection.write_lines(tmp_path / "rows.jsonl", collection.rows(3))
    output = tmp_path / "out"
    staging = Staging.of(Location.of(output))
    staging.begin({"version": 1, "texts": [1]})
    with pytest.raises(InputError, match=r"is of another job: its .*texts.* differ; delete it"):
        embed(source, output, options(folder))
    other = tmp_path / "notes"
    other.mkdir()
    (other / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="exists and is not the result of a finished job"):
        embed(source, other, options(folder))
    assert (other / "note.txt").read_text(encoding="utf-8") == "mine"


def test_a_second_job_on_an_output_is_refused(tmp_path, folder):
    source = collection.write_lines(tmp_path / "rows.jsonl", collection.rows(3))
    output = tmp_path / "out"
    with (
        only_job(Staging.of(Location.of(output))),
        pytest.raises(InputError, match=r"another job writes .*wait for its end"),
    ):
        embed(source, output, options(folder))


def test_a_model_or_length_that_cannot_be_used_is_refused_before_ray_starts(tmp_path, folder):
    source = collection.write_lines(tmp_path / "rows.jsonl", collection.rows(3))
    for changes, message in (
        ({"model": {"model_name_or_path": str(tmp_path / "none")}}, "none"),
        ({"max_length": 100_000}, "max_length=100000, the model takes at most 256"),
        ({"vectors": VectorForm(49)}, "truncate_dim=49; expected 1 to 48"),
    ):
        with pytest.raises((InputError, ModelError), match=message):
            embed(source, tmp_path / "out", options(folder, **changes))
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_may_not_be_written_is_named(tmp_path, folder):
    source = collection.write_lines(tmp_path / "rows.jsonl", collection.rows(3))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(GritLMError, match="cannot be made"):
        embed(source, tmp_path / "file" / "out", options(folder))


def test_the_manifest_has_no_credentials(tmp_path):
    model = {"model_name_or_path": "m", "token": "hf_secret"}
    described = _description([], BulkOptions(model=model), TokenOptions(20))
    assert described["model"] == {"model_name_or_path": "m"}
    address = "s3://AKIAKEY:verysecret@bucket/rows?region=eu-west-1&secret_key=other"
    assert shown(address) == "s3://bucket/rows?region=eu-west-1"


@pytest.mark.parametrize("workers", [(0, 1), (2, 1)])
def test_a_pool_that_cannot_be_is_refused(workers):
    with pytest.raises(InputError, match="expected at least 1 worker"):
        WorkerPool(*workers)


def test_without_ray_the_command_names_the_extra(tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from importlib import util; plain = util.find_spec\n"
        "import gritlm.errors as e; e.find_spec = lambda n: None if n == 'ray' else plain(n)\n"
        "from gritlm.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "embed", "--ray", "--input", "a", "--output", "b"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    assert "needs ray, which is not installed" in done.stderr
    assert "[scale]" in done.stderr
    assert done.stderr.count("\n") == 1
