"""Results are kept by what they depend on, whole or not at all."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from gritlm.evaluation import fingerprints
from gritlm.evaluation.cache import CacheKey, ResultCache
from gritlm.evaluation.embedding import instructions
from gritlm.evaluation.tasks import discovery
from tests.evaluation import made

KEY = CacheKey("weights", "task", "float32", None, "cpu", "0.1.0-mteb-2.26")
RESULTS = [
    made.result("a"),
    made.result("b", items=None, pairs=((0.5, 1.0), (0.25, 4.0)), details={}),
]


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "cache")


def test_what_is_kept_comes_back_as_it_was(cache: ResultCache):
    assert cache.find(KEY) is None
    cache.keep(KEY, RESULTS)
    assert cache.find(KEY) == RESULTS


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "w"},
        {"task": "t"},
        {"dtype": "bfloat16"},
        {"limit": 5},
        {"device": "cuda"},
        {"versions": "0.2.0"},
    ],
)
def test_another_key_finds_nothing(cache: ResultCache, change):
    cache.keep(KEY, RESULTS)
    assert cache.find(replace(KEY, **change)) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"results": [{"task": "a"}]}', '{"results": [1]}']
)
def test_a_damaged_file_is_as_none_and_said_so(cache: ResultCache, caplog, text):
    cache.keep(KEY, RESULTS)
    (file,) = Path(cache.folder or "").rglob("*.json")
    file.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert cache.find(KEY) is None
    assert "measured again" in caplog.text
    cache.keep(KEY, RESULTS)
    assert cache.find(KEY) == RESULTS


def test_without_a_folder_nothing_is_kept(tmp_path: Path):
    cache = ResultCache(None)
    cache.keep(KEY, RESULTS)
    assert cache.find(KEY) is None
    assert cache.requests(KEY) is None


def test_single_answers_are_kept_by_model_and_machinery(cache: ResultCache):
    file = cache.requests(KEY)
    assert cache.requests(replace(KEY, task="another", limit=3)) == file
    for change in ({"weights": "w"}, {"device": "cuda"}, {"versions": "0.2.0"}):
        assert cache.requests(replace(KEY, **change)) != file


def test_instructions_of_ours_are_part_of_tasks_that_embed(monkeypatch):
    before = [fingerprints.of_task("STS12", half) for half in ("embedding", "generation")]
    monkeypatch.setattr(instructions, "text", lambda: "other ones")
    after = [fingerprints.of_task("STS12", half) for half in ("embedding", "generation")]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_the_digest_of_a_task_follows_its_files_and_not_its_place(tmp_path: Path):
    (one,) = discovery.local(made.sts(tmp_path / "here" / "pairs"))
    (other,) = discovery.local(made.sts(tmp_path / "there" / "pairs"))
    assert fingerprints.of_task(one, "embedding") == fingerprints.of_task(other, "embedding")
    with (other.folder / "test.jsonl").open("a") as file:
        file.write('{"sentence1": "x", "sentence2": "y", "score": 1}\n')
    assert fingerprints.of_task(one, "embedding") != fingerprints.of_task(other, "embedding")
    told = replace(one, instruction="Find alike")
    assert fingerprints.of_task(one, "embedding") != fingerprints.of_task(told, "embedding")
    assert fingerprints.of_task("STS12", "embedding") != fingerprints.of_task("STS13", "embedding")
