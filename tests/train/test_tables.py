"""Tables, saved data sets and ids of the hub, read with ``datasets``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from gritlm.errors import MissingExtraError
from gritlm.train.run import parallel
from tests.train.files import lines, pair, pairs, queries, refused


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    """A cache of ``datasets`` for one test."""
    config = pytest.importorskip("datasets").config
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pair_of(query: str) -> dict[str, object]:
    return {"query": query, "pos": ["p"], "neg": ["n"]}


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tables_are_read_through_datasets(tmp_path, cache, ending):
    import datasets

    folder = tmp_path / "made [1]*"
    folder.mkdir()
    made = datasets.Dataset.from_list([{"query": "a", "pos": ["p"], "neg": None}, pair_of("b")])
    path = folder / f"data.{ending}"
    if ending == "parquet":
        made.to_parquet(path)
    else:
        made.save_to_disk(tmp_path / "saved")
        next((tmp_path / "saved").glob("*.arrow")).rename(path)
    rows = pairs(path)
    assert queries(rows) == ["a", "b"]
    assert rows.place(1) == f"{path}:2"


def test_a_folder_that_datasets_saved_is_one_data_set(tmp_path, cache):
    import datasets

    made = datasets.Dataset.from_list([pair_of("a"), pair_of("b")])
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(tmp_path / "two")
    assert queries(pairs(tmp_path / "one")) == ["a", "b"]
    rows = pairs(tmp_path / "two", split="test")
    assert (queries(rows), rows.place(0)) == (["b"], f"{tmp_path}/two[test]:1")
    assert "has no split 'tset'; did you mean 'test'?" in refused(tmp_path / "two", split="tset")


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_broken_table_is_named(tmp_path, cache, ending):
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(b"no table at all")
    assert refused(path).startswith(f"{path} cannot be read as {ending} (")


def test_a_row_of_a_table_is_named_by_its_number(tmp_path, cache):
    import datasets

    path = tmp_path / "bad.parquet"
    datasets.Dataset.from_list([pair_of("a"), pair_of("")]).to_parquet(path)
    assert refused(path) == f"{path}:2: query is empty; give it a text, or leave the row out"


def fake(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """A library ``datasets`` whose hub answers so."""

    def load_dataset(path: str, *, split: str) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    module.are_progress_bars_disabled = lambda: True
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.parametrize(
    ("terminal", "main", "shown"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_bars_are_shown_on_a_terminal_by_one_process(monkeypatch, terminal, main, shown):
    datasets = pytest.importorskip("datasets")
    found = []

    def load_dataset(path: str, *, split: str) -> object:
        found.append(not datasets.are_progress_bars_disabled())
        return [pair(0)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(parallel, "is_main", lambda: main)
    pairs("owner/pairs")
    assert found == [shown]
    assert not datasets.are_progress_bars_disabled()  # as before


def test_an_id_of_the_hub_is_loaded(monkeypatch):
    fake(monkeypatch, [pair(0), pair(1)])
    rows = pairs("owner/pairs", split="dev")
    assert (queries(rows), rows.title) == (["query 0", "query 1"], "pairs")
    assert rows.place(1) == "owner/pairs[dev]:2"


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(monkeypatch):
    error = ConnectionError("Couldn't reach 'owner/pairs' on the Hub\nRetry later")
    fake(monkeypatch, error)
    assert refused("owner/pairs") == (
        "owner/pairs is no file or folder here, and not to be had from the hub (Couldn't reach "
        "'owner/pairs' on the Hub); check the name and the connection, or download it and give "
        "its folder"
    )


def test_an_id_that_may_be_a_slip_in_a_path_is_told_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/train").mkdir(parents=True)
    fake(monkeypatch, ConnectionError("no network"))
    assert "no file or folder here; did you mean 'train'?, and not" in refused("data/trian")


def test_an_empty_data_set_is_refused(monkeypatch):
    fake(monkeypatch, [])
    assert refused("owner/pairs") == "owner/pairs[train] is empty; expected rows"


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path in ("owner/pairs", str(tmp_path / "a.parquet")):
        with pytest.raises(MissingExtraError, match=r"pip install -e '.*\[train\]'"):
            pairs(path)
    assert len(pairs(lines(tmp_path / "b.jsonl", [pair(0)]))) == 1
