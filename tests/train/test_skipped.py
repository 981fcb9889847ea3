"""Rows that cannot be used: the run ends, or they are skipped, counted and listed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gritlm.errors import InputError
from gritlm.train.config import EvaluationConfig, SourceConfig, TrainConfig
from gritlm.train.data import skipped, sources
from gritlm.train.run import metrics_log
from gritlm.train.trainer import train
from tests.train import runs
from tests.train.files import pair
from tests.train.ranks import joined, spawn

BAD = ('{"query": "no passages"}', "{broken", '{"query": "q", "pos": [""]}')
# The forms in which the two rows of a tool call and of text parts come.
SHAREGPT = [
    {
        "conversations": [
            {"from": "human", "value": "Call"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "4"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
        ]
    },
]


def mixed(path: Path, good: list[dict[str, Any]], bad: tuple[str, ...] = BAD) -> SourceConfig:
    """A bad row behind each of the first good ones."""
    lines = []
    for number, record in enumerate(good):
        lines += [json.dumps(record), *bad[number : number + 1]]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return SourceConfig(str(path))


def skipping(folder: Path, **sections: Any) -> TrainConfig:
    """A run whose sources hold rows that cannot be used."""
    pairs = mixed(folder / "bad-pairs.jsonl", runs.PAIRS)
    chats = mixed(folder / "bad-chats.jsonl", runs.CHATS, ('{"messages": []}',))
    data = {"embedding": (pairs,), "generative": (chats,), "skip_bad_rows": True}
    return runs.make(folder, **{**sections, "data": {**data, **sections.get("data", {})}})


def test_bad_rows_are_counted_and_listed_and_the_others_are_used(tmp_path):
    rows = sources.load(
        mixed(tmp_path / "rows.jsonl", [pair(i) for i in range(4)]), "embedding", skip_bad=True
    )
    assert [rows[i].query.text for i in range(4)] == [f"query {i}" for i in range(4)]
    assert [rows.place(i).rpartition(":")[2] for i in range(4)] == ["1", "3", "5", "7"]
    assert (rows.skipped.count, rows.duplicates) == (3, 0)
    assert [place for place, _ in rows.skipped.first] == [
        f"{tmp_path}/rows.jsonl:{line}" for line in (2, 4, 6)
    ]
    assert [reason[:14] for _, reason in rows.skipped.first] == [
        "the row has 'q",
        "broken JSON (E",
        "pos[0] is empt",
    ]


def test_a_cap_counts_rows_that_can_be_used_and_equal_ones_are_left_out(tmp_path):
    good = [pair(0), pair(0), pair(1), pair(2)]
    source = replace(mixed(tmp_path / "rows.jsonl", good), cap=3)
    rows = sources.load(source, "embedding", skip_bad=True)
    assert [row.query.text for row in rows] == ["query 0", "query 1"]
    assert (rows.skipped.count, rows.duplicates) == (2, 1)


def test_rows_of_several_files_keep_their_places(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2):
        mixed(folder / f"{number}.jsonl", [pair(10 * number + i) for i in range(3)])
    rows = sources.load(SourceConfig(str(folder)), "embedding", skip_bad=True)
    texts = [row.query.text for row in rows]
    assert texts == [f"query {i}" for i in (0, 1, 2, 10, 11, 12)]
    assert rows.place(4) == f"{folder}/1.jsonl:3"


def test_a_scored_pair_among_other_rows_is_a_bad_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    runs.write(path, [pair(0), {"sentence1": "a", "sentence2": "b", "score": 1}, pair(1)])
    rows = sources.load(SourceConfig(str(path)), "embedding", skip_bad=True)
    assert (len(rows), rows.skipped.count) == (2, 1)


def test_a_source_without_a_row_that_can_be_used_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(BAD), encoding="utf-8")
    with pytest.raises(InputError, match=r"none of its 3 rows can be used; the first is .*:1: the"):
        sources.load(SourceConfig(str(path)), "embedding", skip_bad=True)


def test_the_list_is_bounded_and_the_count_is_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(skipped, "KEPT", 2)
    rows = sources.load(
        mixed(tmp_path / "rows.jsonl", [pair(i) for i in range(4)]), "embedding", skip_bad=True
    )
    assert (rows.skipped.count, len(rows.skipped.first)) == (3, 2)
    assert list(skipped.lines(rows, most=1))[-1] == "... and 2 more skipped rows of rows"
    skipped.write(tmp_path, {"embedding": [rows]})
    lines = (tmp_path / skipped.FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("skipped") for line in lines] == [None, None, 3]


def test_without_the_setting_the_first_bad_row_ends_the_run_before_it_starts(tmp_path):
    run = skipping(tmp_path, data={"skip_bad_rows": False})
    with pytest.raises(InputError, match=r"bad-pairs.jsonl:2: the row has 'query'"):
        train(run)
    assert not (tmp_path / "out").exists()


def test_a_run_reports_its_skipped_rows_everywhere(tmp_path):
    said: list[str] = []
    run = skipping(tmp_path)
    held = mixed(tmp_path / "held.jsonl", runs.PAIRS[:3], BAD[:1])
    train(replace(run, evaluation=EvaluationConfig(embedding=(held,))), report=said.append)
    assert any("bad-pairs, 40 rows, 3 skipped" in line for line in said)
    assert any(line.startswith(f"skipped {tmp_path}/bad-pairs.jsonl:2: the row") for line in said)
    assert {"step": 0, "skipped_rows": 5} in metrics_log.read(tmp_path / "out")
    text = (tmp_path / "out" / skipped.FILE).read_text(encoding="utf-8")
    listed = [json.loads(line) for line in text.splitlines()]
    assert [entry["skipped"] for entry in listed if "skipped" in entry] == [3, 1, 1]
    assert {entry["stream"] for entry in listed} == {
        "embedding",
        "generative",
        "held-out embedding",
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| embedding | bad-pairs | 40 | 40 | 0 | 3 |" in card


def test_a_run_over_good_and_bad_rows_is_that_over_the_good_ones(tmp_path):
    clean = runs.make(tmp_path)
    train(clean)
    dirty = skipping(tmp_path)
    train(runs.elsewhere(dirty, "dirty"))
    runs.assert_same_weights(tmp_path / "out", tmp_path / "dirty", 0)
    assert not (tmp_path / "out" / skipped.FILE).exists()


def test_a_resumed_run_skips_the_same_rows(tmp_path):
    whole = skipping(tmp_path, training={"max_steps": 4})
    train(whole)
    parted = runs.elsewhere(whole, "parted", save_steps=2)
    train(parted)
    train(
        runs.elsewhere(
            parted, "parted", resume_from_checkpoint=str(tmp_path / "parted" / "checkpoint-000002")
        )
    )
    runs.assert_same_course(whole, parted, 1e-7)
    runs.assert_same_weights(tmp_path / "out", tmp_path / "parted", 1e-7)


def test_a_row_that_fails_when_it_is_read_is_skipped_and_counted(tmp_path, caplog):
    """The roles are fine, what the chat template makes of the content is not."""
    base = runs.make(tmp_path).model.base
    path = Path(str(base)) / "chat_template.jinja"
    refusal = "{% if '7' in messages[0]['content'] %}{{ raise_exception('no sevens') }}{% endif %}"
    path.write_text(refusal + path.read_text(encoding="utf-8"), encoding="utf-8")
    said: list[str] = []
    run = runs.make(
        tmp_path,
        model={"template": "tokenizer"},
        data={"skip_bad_rows": True},
        training={"max_steps": 8},
    )
    train(run, report=said.append)
    assert "no sevens" in caplog.text
    assert any("rows had nothing to train" in line for line in said)
    stopped = replace(run, data=replace(run.data, skip_bad_rows=False))
    with pytest.raises(InputError, match=r"chats.jsonl:\d+: .*no sevens"):
        train(runs.elsewhere(stopped, "stopped"))


def test_rows_of_text_parts_and_tool_calls_are_trained(tmp_path):
    rows = runs.write(tmp_path / "sharegpt.jsonl", SHAREGPT)
    result = train(runs.make(tmp_path, data={"generative": (rows,)}))
    assert result.steps == 3


def both(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    with joined(rank, f"{folder}/meet"):
        half = {"per_device_train_batch_size": 4, "per_device_generative_bs": 2}
        train(skipping(Path(folder), training={**half, "output_dir": f"{folder}/two"}))


@pytest.mark.distributed
def test_two_processes_skip_the_same_rows_as_one(tmp_path):
    one = skipping(tmp_path)
    train(one)
    spawn(both, tmp_path)
    two = runs.elsewhere(one, "two")
    runs.assert_same_course(one, two, 1e-5)
    assert {"step": 0, "skipped_rows": 4} in metrics_log.read(tmp_path / "two")
