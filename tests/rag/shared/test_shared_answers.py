"""Answers of engines whose blocks are in shared storage."""

from __future__ import annotations

import logging

import pytest

from gritlm.lm.sampling import SamplingParams
from gritlm.rag import RagEngine
from gritlm.rag.ingest import ingest
from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks
from gritlm.rag.options import AnswerOptions
from tests.rag.conftest import QUESTION, TEXTS
from tests.rag.shared.objects import MemoryObjects

DOCUMENTS = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
BRIEF = AnswerOptions(top_k=2, fusion="joint", sampling=SamplingParams(max_new_tokens=4))


@pytest.fixture
def objects():
    return MemoryObjects()


def opened(place, grit, objects, **options):
    return RagEngine.open(place, grit, shared_blocks=SharedBlocks(objects, True), **options)


def tiers(answer):
    return [part["tier"] for part in answer.trace.parts[:2]]


@pytest.fixture
def indexed(grit, tmp_path, objects):
    """A workspace without blocks on disk, whose blocks are in shared storage."""
    place = tmp_path / "store"
    with opened(place, grit, objects) as engine:
        engine.add(DOCUMENTS)
        expected = engine.answer(QUESTION, BRIEF)
        engine.store.evict(2**40)
        assert engine.store.stats().blocks == 0
    assert len(objects.blocks()) == len(DOCUMENTS)
    return place, expected


def test_the_trace_names_the_tier_of_each_block(grit, objects, indexed):
    place, expected = indexed
    with opened(place, grit, objects) as engine:
        found = [engine.answer(QUESTION, BRIEF) for _ in range(4)]
    assert [set(tiers(each)) for each in found] == [{"shared"}, {"disk"}, {"disk"}, {"memory"}]
    assert {each.text for each in found} == {expected.text}
    first = found[0].trace
    assert first.tokens_computed == 0
    assert first.bytes_read["shared"] == expected.trace.bytes_read["disk"]
    assert first.as_dict()["parts"][0]["tier"] == "shared"


def test_reading_processes_fetch_too(grit, objects, indexed):
    place, expected = indexed
    with opened(place, grit, objects, read_only=True) as engine:
        found = [engine.answer(QUESTION, BRIEF) for _ in range(2)]
    assert [set(tiers(each)) for each in found] == [{"shared"}, {"memory"}]
    assert {each.text for each in found} == {expected.text}


def test_answers_do_not_need_the_storage(grit, objects, indexed, caplog):
    place, expected = indexed
    objects.away = True
    with opened(place, grit, objects) as engine:
        found = [engine.answer(QUESTION, BRIEF) for _ in range(2)]
    assert [set(tiers(each)) for each in found] == [{"computed"}, {"disk"}]
    assert {each.text for each in found} == {expected.text}
    assert sum("away" in each.getMessage() for each in caplog.records) == 1


def test_broken_blocks_are_computed_and_replaced(grit, objects, indexed):
    place, expected = indexed
    whole = dict(objects.content)
    for name in objects.blocks():
        objects.content[name] = whole[name][:-3]
    with opened(place, grit, objects) as engine:
        found = engine.answer(QUESTION, BRIEF)
    assert tiers(found) == ["computed", "computed"]
    assert found.text == expected.text
    assert sum(objects.content[name] == whole[name] for name in objects.blocks()) == 2


def test_a_block_of_another_workspace_is_not_computed_at_indexing(
    grit, objects, indexed, tmp_path, monkeypatch
):
    monkeypatch.setattr(ingest, "measured_block", lambda *_, **__: pytest.fail("computed"))
    with opened(tmp_path / "other", grit, objects) as engine:
        added = engine.add(DOCUMENTS)
        assert (added.stored, engine.store.stats().blocks) == (len(DOCUMENTS), len(DOCUMENTS))
        assert set(tiers(engine.answer(QUESTION, BRIEF))) == {"disk"}


def test_deleted_and_replaced_documents_are_gone_from_shared_storage(grit, objects, indexed):
    place, _ = indexed
    before = set(objects.blocks())
    with opened(place, grit, objects) as engine:
        engine.delete("d0")
        assert len(objects.blocks()) == len(DOCUMENTS) - 1
        engine.add([{"id": "d1", "text": "Another text."}])
        after = set(objects.blocks())
        assert len(after) == len(DOCUMENTS) - 1
        assert len(before - after) == 2


def test_an_equal_passage_of_another_document_is_computed_again(grit, objects, indexed, caplog):
    """The delete wins over the other document: no trace of the deleted one may stay."""
    place, _ = indexed
    twin = {"id": "twin", "text": TEXTS[3]}
    with opened(place, grit, objects) as engine:
        engine.add([twin])
        assert len(objects.blocks()) == len(DOCUMENTS)  # one block for both
        engine.delete("d3")
        assert len(objects.blocks()) == len(DOCUMENTS) - 1
        options = AnswerOptions(top_k=1, sampling=SamplingParams(max_new_tokens=2))
        hits = [hit for hit in engine.retrieve(TEXTS[3], top_k=9) if hit.passage.text == TEXTS[3]]
        assert [hit.passage.document_id for hit in hits] == ["twin"]
        found = [engine.answer(QUESTION, options, hits=hits) for _ in range(2)]
        assert [each.trace.parts[0]["tier"] for each in found] == ["computed", "disk"]
    assert len(objects.blocks()) == len(DOCUMENTS)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
