"""The engine: reused state gives what reading again gives, and says what it did."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from gritlm import GritLM
from gritlm.errors import InputError, ModelError, UnknownArgumentError
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import RAG_FORMS, for_yes_no
from gritlm.rag.engine import RagEngine
from gritlm.rag.identity import maker_of
from gritlm.rag.index.index import Index
from gritlm.rag.ingest.ingest import AddResult, ChunkingOptions
from gritlm.rag.kvstore import segments
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.kvstore.lmdb.lmdb_index import LmdbIndex
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.options import AnswerOptions, AnswerOverrides
from gritlm.rag.plan import PromptAssembler
from gritlm.rag.rerank import Reranker
from gritlm.rag.retrieve import Search
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.reuse.recompute import FIRST
from gritlm.rag.reuse.reuse_check import ReuseCheck, block_masked_logits
from tests import tiny
from tests.rag.conftest import QUESTION, TEXTS

BOUND = 1e-4
CACHED = [mode for mode in RAG_FORMS if mode != "none"]
DOCUMENTS = [{"id": f"d{n}", "text": text, "metadata": {"n": n}} for n, text in enumerate(TEXTS)]
BRIEF = AnswerOptions(fusion="joint", sampling=SamplingParams(max_new_tokens=8), recompute=None)


@pytest.fixture(scope="module")
def engine(grit, tmp_path_factory):
    """Five documents; tests only ask."""
    with RagEngine.open(tmp_path_factory.mktemp("engine") / "store", grit) as made:
        made.add(DOCUMENTS)
        yield made


def exact(engine: RagEngine, mode, kind, hits) -> torch.Tensor:
    """Logits of one pass over the whole prompt, its parts kept apart by a mask."""
    assembler = PromptAssembler(engine.model)
    plan = assembler.plan(mode, QUESTION, hits, max_new_tokens=8)
    return block_masked_logits(
        engine.model.lm,
        [part.ids for part in plan.parts],
        plan.ids,
        bos=len(assembler.prefix),
        causal=kind == "causal",
    )


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("mode", RAG_FORMS)
@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_the_logits_are_those_of_one_block_masked_pass(engine, mode, kind, count):
    hits = engine.retrieve(QUESTION, top_k=count)
    prepared = engine.prepare(QUESTION, replace(BRIEF, mode=mode, blocks=kind), hits=hits)
    assert (prepared.prompt.logits_V - exact(engine, mode, kind, hits)).abs().max() < BOUND


@pytest.mark.parametrize(("storage", "bound"), [("bfloat16", 0.03), ("int8", 0.06), ("int4", 0.5)])
@pytest.mark.parametrize("mode", CACHED)
def test_smaller_number_formats_stay_within_a_bound(grit, tmp_path, mode, storage, bound):
    with RagEngine.open(tmp_path / "store", grit, storage=storage) as engine:
        engine.add(DOCUMENTS)
        hits = engine.retrieve(QUESTION, top_k=5)
        ours = engine.prepare(
            QUESTION, replace(BRIEF, mode=mode, blocks="causal"), hits=hits
        ).prompt.logits_V
        theirs = exact(engine, mode, "causal", hits)
    assert (ours - theirs).abs().max() < bound * theirs.std()


def test_one_causal_document_is_answered_from_token_for_token(engine):
    for number in range(5):
        plain, cached = (
            engine.answer(
                QUESTION,
                mode=mode,
                blocks="causal",
                filter={"n": number},
                top_k=1,
                max_new_tokens=24,
            ).text
            for mode in ("none", "doc")
        )
        assert plain == cached


@pytest.mark.parametrize("mode", RAG_FORMS)
def test_a_stream_gives_the_same_answer(engine, mode):
    whole = engine.answer(QUESTION, mode=mode, max_new_tokens=16)
    stream = engine.stream(QUESTION, mode=mode, max_new_tokens=16)
    assert stream.sources == whole.sources
    assert "".join(stream) == whole.text == stream.answer.text


def test_the_trace_counts_every_token_once(engine):
    lengths = {}
    short = AnswerOptions(3, fusion="joint", sampling=SamplingParams(4))
    for mode in RAG_FORMS:
        trace = engine.answer(QUESTION, short, mode=mode).trace
        lengths[mode] = trace.tokens_prefilled + trace.tokens_reused
        assert trace.tokens_computed == 0
        hits = engine.retrieve(QUESTION, top_k=3)
        plan = PromptAssembler(engine.model).plan(mode, QUESTION, hits, max_new_tokens=4)
        assert lengths[mode] == plan.tokens
        assert trace.milliseconds["first_token"] > 0
        passages = [hit.passage.id for hit in reversed(hits)]
        named = {"documents": passages, "question": ["question"], None: []}
        form = RAG_FORMS[mode]
        wanted = [name for part in (*form.before, form.fresh) for name in named[part]]
        assert [part["part"] for part in trace.parts] == [*wanted, "instruction"]
        assert sum(part["tokens"] for part in trace.parts) == plan.tokens
    assert lengths["none"] == lengths["doc"]
    doc = engine.answer(QUESTION, short).trace
    assert set(doc.bytes_read) <= {"memory", "disk"}
    none = engine.answer(QUESTION, short, mode="none").trace
    assert (none.tokens_reused, none.tokens_prefilled - doc.tokens_reused) == (
        0,
        doc.tokens_prefilled,
    )


def test_sources_are_spans_of_their_documents(engine):
    (source,) = engine.answer(QUESTION, filter={"n": 3}, top_k=1, max_new_tokens=2).sources
    assert source.document_id == "d3"
    assert TEXTS[3][source.start : source.end] == source.text


def test_adding_again_changes_nothing_and_another_content_replaces(grit, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    for number, text in enumerate(TEXTS):
        (notes / f"{number}.txt").write_text(text, encoding="utf-8")
    (notes / "empty.txt").write_text("", encoding="utf-8")
    with RagEngine.open(tmp_path / "store", grit) as engine:
        first = engine.add(notes)
        assert (first.documents, first.unchanged, len(first.skipped)) == (5, 0, 1)
        before = sorted(p.id for p in engine.index.passages())
        again = engine.add(notes)
        assert (again.documents, again.unchanged) == (0, 5)
        assert sorted(p.id for p in engine.index.passages()) == before
        (notes / "1.txt").write_text("Something else altogether.", encoding="utf-8")
        changed = engine.add(notes)
        assert (changed.documents, changed.replaced, changed.unchanged) == (1, 1, 4)
        texts = {p.text for p in engine.index.passages()}
        assert texts == {*TEXTS, "Something else altogether."} - {TEXTS[1]}


def test_rows_that_are_gone_from_a_file_go_from_the_store(grit, tmp_path):
    rows = tmp_path / "rows.jsonl"

    def write(*lines: object) -> None:
        rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add({"id": "other", "text": TEXTS[4]})
        write({"text": TEXTS[0]}, {"id": "a", "text": TEXTS[1]}, {"id": "b", "text": TEXTS[2]})
        engine.add(rows)
        write({"text": TEXTS[3]}, {"id": "a", "text": TEXTS[1]}, {"id": "c", "text": TEXTS[2]})
        changed = engine.add(rows)
        assert (changed.documents, changed.removed, changed.unchanged) == (2, 2, 1)
        assert {p.text for p in engine.index.passages()} == {*TEXTS} - {TEXTS[0]}
        assert engine.store.stats().blocks == 4  # that of b and c, too, which was taken out with b
        assert engine.store.stats().dead_bytes == 0
        write({"id": "a", "text": TEXTS[1]}, {"id": "c", "text": ""})
        broken = engine.add(rows)
        assert (broken.removed, len(broken.skipped)) == (0, 1)
        assert len(engine.index) == 4


def test_an_interrupted_run_goes_on_where_it_stopped(grit, tmp_path, monkeypatch):
    monkeypatch.setattr("gritlm.rag.ingest.ingest.BATCH", 2)
    with RagEngine.open(tmp_path / "store", grit) as engine:
        write = engine.index.add
        calls = []

        def stopping(*args, **options):
            if len(calls) == 1:
                raise KeyboardInterrupt
            calls.append(1)
            return write(*args, **options)

        monkeypatch.setattr(engine.index, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            engine.add(DOCUMENTS)
    with RagEngine.open(tmp_path / "store", grit) as engine:
        added = engine.add(DOCUMENTS)
        assert (added.unchanged, added.documents) == (2, 3)
        assert len(engine.index) == 5


def test_deleted_documents_are_gone_with_their_blocks(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add([*DOCUMENTS, {"id": "twin", "text": TEXTS[0]}])
        assert engine.store.stats().blocks == 5
        assert engine.delete(["d0", "d1"]) == 2
        assert engine.store.stats().blocks == 3
        assert engine.store.stats().dead_bytes == 0
        assert {hit.passage.document_id for hit in engine.retrieve(QUESTION, top_k=9)} == {
            "d2",
            "d3",
            "d4",
            "twin",
        }
        read = engine.answer(QUESTION, BRIEF, top_k=4).trace.bytes_read
        assert read["computed"] > 0  # that of the twin, whose text was forgotten with d0


def test_documents_are_added_from_a_thread_that_does_not_own_the_model(grit, tmp_path):
    models, others = set(), set()
    encode, put = grit.encode, KVStore.put_many
    with (
        ThreadPoolExecutor(1) as model,
        pytest.MonkeyPatch.context() as patch,
        RagEngine.open(tmp_path / "store", grit) as engine,
    ):
        seen = threading.get_ident

        def encoded(*given, **options):
            models.add(seen())
            return encode(*given, **options)

        def stored(*given):
            others.add(seen())
            return put(*given)

        patch.setattr(grit, "encode", encoded, raising=False)
        patch.setattr(KVStore, "put_many", stored)
        added = engine.add(DOCUMENTS, on_model=lambda run: model.submit(run).result())
        assert models == {model.submit(seen).result()}
        assert seen() not in others | models  # it has multiplied in no thread that stays
    assert added.stored == added.passages == len(DOCUMENTS)


def test_the_blocks_of_a_replaced_text_are_gone_too(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add({"id": "note", "text": TEXTS[0]})
        (old,) = engine.retrieve(QUESTION)
        engine.add({"id": "note", "text": TEXTS[1]})
        assert engine.store.stats().blocks == 1
        (ids,) = PromptAssembler(grit).passage_ids([old.passage.embedded])
        assert engine.store.key(ids, causal=True) not in engine.store


def test_a_missing_block_is_computed_answered_from_and_stored(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add(DOCUMENTS)
        first = engine.answer(QUESTION, blocks="bidirectional", max_new_tokens=8)
        assert set(first.trace.bytes_read) == {"computed"}
        second = engine.answer(QUESTION, blocks="bidirectional", max_new_tokens=8)
        assert "computed" not in second.trace.bytes_read
        assert second.text == first.text


@pytest.mark.parametrize("count", [1, 3])
def test_several_documents_have_their_first_tokens_read_again_and_one_has_not(engine, count):
    trace = engine.answer(QUESTION, BRIEF, recompute=FIRST, top_k=count).trace
    assert trace.tokens_recomputed == 16 * (count - 1)


@pytest.mark.parametrize("count", [1, 3])
def test_the_best_document_is_read_again_as_a_whole(engine, count):
    hits = engine.retrieve(QUESTION, top_k=count)
    trace = engine.answer(QUESTION, fusion="joint", hits=hits, max_new_tokens=2).trace
    size = {part["part"]: part["tokens"] for part in trace.parts}[hits[0].passage.id]
    assert trace.tokens_recomputed == (16 * (count - 2) + size if count > 1 else 0)


def test_reranking_keeps_the_candidates_and_orders_them_by_the_models_own_word(engine):
    hits = engine.retrieve(QUESTION, top_k=5)
    ranked = Reranker(
        engine.model,
        BlockProvider(engine.model.lm, engine.store),
        PromptAssembler(engine.model),
        causal=True,
    ).ranked(QUESTION, hits, method="yes-no")
    tokens = SegmentTokenizer(engine.model.tokenizer)
    tail = tokens.for_chat(for_yes_no(QUESTION), start=False).ids
    yes, no = (tokens.pieces([word], first=False)[0][0] for word in ("Yes", "No"))
    for hit, score in ranked:
        part = PromptAssembler(engine.model).passage_ids([hit.passage.embedded])
        exact_V = block_masked_logits(engine.model.lm, part, tail, bos=1, causal=True)
        assert abs(score - float(exact_V[yes] - exact_V[no])) < BOUND
    assert [score for _, score in ranked] == sorted((s for _, s in ranked), reverse=True)
    before = engine.store.stats().missed
    asked = replace(BRIEF, top_k=2, rerank=5, rerank_method="yes-no")
    found = engine.answer(QUESTION, asked)
    assert engine.store.stats().missed == before
    assert [s.id for s in found.sources] == [hit.passage.id for hit, _ in ranked[:2]]
    everything = engine.answer(QUESTION, asked, top_k=5)
    assert [s.id for s in found.sources] == [s.id for s in everything.sources][:2]
    assert len(everything.sources) == 5
    assert "rerank" in found.trace.milliseconds


def test_more_passages_than_there_are_is_all_of_them(engine):
    assert len(engine.answer(QUESTION, BRIEF, top_k=99).sources) == 5


def test_passages_without_room_are_dropped_and_named(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add([{"id": f"long{n}", "text": f"{n} {TEXTS[n % 5]} " * 9} for n in range(9)])
        answer = engine.answer(QUESTION, BRIEF, top_k=9, max_new_tokens=300)
        assert answer.trace.dropped
        assert len(answer.sources) + len(answer.trace.dropped) == 9


def test_what_cannot_be_answered_is_said(engine, grit, tmp_path):
    with pytest.raises(InputError, match="1024; shorten it"):
        engine.answer("word " * 2000)
    with pytest.raises(InputError, match="the question is empty"):
        engine.answer("  ")
    with pytest.raises(InputError, match="no passage matches the filter"):
        engine.answer(QUESTION, filter={"n": 77})
    with pytest.raises(InputError, match="expected one of none, query, doc"):
        engine.answer(QUESTION, mode="document")
    with pytest.raises(InputError, match="top_k is 0"):
        engine.answer(QUESTION, top_k=0)
    with RagEngine.open(tmp_path / "empty", grit) as empty:
        assert empty.retrieve(QUESTION) == []
        with pytest.raises(InputError, match="nothing is stored yet"):
            empty.answer(QUESTION)


def test_a_store_of_another_model_is_refused(engine, tmp_path):
    other = GritLM(tiny.folder(tmp_path / "other", seed=5), dtype="float32", device="cpu")
    with pytest.raises(InputError, match=r"(?s)rag-llama.*float32.*other.*float32"):
        RagEngine.open(engine.place, other, read_only=True)


def test_a_store_whose_texts_were_read_in_another_way_is_refused(grit, rag_folder, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add(DOCUMENTS)
    other = GritLM(rag_folder, attn="cccc", dtype="float32", device="cpu")
    with pytest.raises(InputError, match="this store was made by"):
        RagEngine.open(tmp_path / "store", other)
    projected = GritLM(rag_folder, projection=16, dtype="float32", device="cpu")
    before = maker_of(projected).digest
    torch.nn.init.ones_(projected.projection.weight)
    assert maker_of(projected).digest != before


def test_what_a_killed_process_left_behind_is_no_reason_to_refuse_a_folder(grit, tmp_path):
    place = tmp_path / "store"
    place.mkdir()
    (place / f".engine.json.{'0f' * 16}.tmp").write_text("{", encoding="utf-8")
    with RagEngine.open(place, grit) as engine:
        assert engine.add(DOCUMENTS).documents == 5


def test_a_folder_of_something_else_is_left_alone(grit, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear Ann", encoding="utf-8")
    with pytest.raises(InputError, match="holds something else"):
        RagEngine.open(tmp_path, grit)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match="there is no store here"):
        RagEngine.open(tmp_path / "none", grit, read_only=True)


def test_a_reader_changes_nothing(grit, engine):
    with RagEngine.open(engine.place, grit, read_only=True) as reader:
        with pytest.raises(InputError, match="opened for reading"):
            reader.delete("d0")
        with pytest.raises(InputError, match="opened for reading"):
            reader.add({"id": "new", "text": "new"})
    assert len(engine.index) == 5


def test_a_way_of_cutting_that_cannot_be_used_is_not_settled(grit, tmp_path):
    for wrong in (
        ChunkingOptions(max_tokens=8),
        ChunkingOptions(64, overlap=60),
        ChunkingOptions(max_tokens=5000),
    ):
        with pytest.raises(InputError, match=r"max_tokens|overlap"):
            RagEngine.open(tmp_path / "store", grit, cutting=wrong)
    with RagEngine.open(tmp_path / "store", grit) as engine:
        assert engine.add(DOCUMENTS).documents == 5
        assert [each.id for each in engine.documents()] == [f"d{n}" for n in range(5)]


def test_folders_of_one_name_and_other_ways_to_say_the_same_folder(grit, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name / "notes").mkdir(parents=True)
        (tmp_path / name / "notes" / "a.txt").write_text(f"This is {name}.")
    place = tmp_path / "store"
    with RagEngine.open(place, grit) as engine:
        engine.add(tmp_path / "one" / "notes")
    monkeypatch.chdir(tmp_path / "one")
    with RagEngine.open(place, grit) as engine:
        assert engine.add([tmp_path / "two" / "notes", "notes"]).documents == 1
        texts = {each.document_id: each.text for each in engine.index.passages()}
        assert texts == {"notes/a.txt": "This is one.", "two/notes/a.txt": "This is two."}
        monkeypatch.chdir(tmp_path / "two" / "notes")
        for source in (".", "a.txt", "../notes", tmp_path / "one" / "notes" / "a.txt"):
            added = engine.add(source)
            assert (added.documents, added.unchanged) == (0, 1)
        Path("a.txt").write_text("It was changed.")
        assert engine.add("../../two/notes").replaced == 1
        texts = {each.document_id: each.text for each in engine.index.passages()}
        assert texts == {"notes/a.txt": "This is one.", "two/notes/a.txt": "It was changed."}


@pytest.mark.parametrize("step", range(1, 30, 2))
def test_what_is_interrupted_anywhere_is_whole_and_goes_on(grit, tmp_path, monkeypatch, step):
    """Ctrl-C at the first call of one of these, at the third, ..."""
    monkeypatch.setattr("gritlm.rag.ingest.ingest.BATCH", 2)
    left, done = [step], AddResult()

    def stops(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add([DOCUMENTS[0] | {"text": "It will be replaced."}])
        with monkeypatch.context() as patch:
            for owner, name in (
                (GritLM, "encode"),
                (segments.SegmentFiles, "_write"),
                (segments.SegmentFiles, "sync"),
                (LmdbIndex, "write"),
                (Index, "add"),
                (KVStore, "put_many"),
                (KVStore, "delete"),
            ):
                patch.setattr(owner, name, stops(getattr(owner, name)))
            with suppress(KeyboardInterrupt):
                engine.add(DOCUMENTS, done=done)
        assert len(engine.index.known()) == max(1, done.documents)
        assert done.seconds > 0
    with KVStore.open(tmp_path / "store" / "kv", None, read_only=True) as store:
        assert store.verify() == []
    with RagEngine.open(tmp_path / "store", grit) as engine:
        again = engine.add(DOCUMENTS)
        assert again.documents == 5 - done.documents
        assert [each.text for each in engine.index.passages("d0")] == [TEXTS[0]]
        assert engine.store.stats().blocks == 5
        assert engine.store.verify() == []


def test_type_checkers_know_a_whole_answer_from_a_stream():
    assert RagEngine.answer.__annotations__["return"] == "Answer"
    assert RagEngine.stream.__annotations__["return"] == "AnswerStream"


def test_type_checkers_know_the_keywords_that_replace_options():
    names = {each.name for each in fields(AnswerOptions)}
    assert set(AnswerOverrides.__annotations__) == names | {"max_new_tokens"}


def test_keywords_replace_single_options_and_leave_the_others(engine):
    options = replace(BRIEF, top_k=2, mode="none")
    answer = engine.answer(QUESTION, options, max_new_tokens=3)
    assert (answer.trace.mode, answer.trace.tokens_generated, len(answer.sources)) == ("none", 3, 2)
    same = replace(options, sampling=SamplingParams(max_new_tokens=3))
    assert engine.answer(QUESTION, same).text == answer.text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stream", r"call RagEngine\.stream\(\)"),
        ("temperature", r"pass sampling=SamplingParams\(temperature=\.\.\.\)"),
        ("topk", "did you mean 'top_k'"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_way_to_pass_it(engine, name, hint):
    with pytest.raises(UnknownArgumentError, match=f"unknown argument '{name}'; {hint}"):
        engine.answer(QUESTION, **{name: 1})


def test_passages_of_an_earlier_search_are_answered_from(engine):
    hits = engine.retrieve(QUESTION, top_k=2)
    assert engine.answer(QUESTION, BRIEF, hits=hits).text == (
        engine.answer(QUESTION, BRIEF, top_k=2).text
    )
    (source,) = engine.answer(QUESTION, BRIEF, hits=hits[1:]).sources
    assert source.id == hits[1].passage.id


def test_log_probabilities_that_would_be_ignored_are_refused():
    with pytest.raises(InputError, match="reports no log-probabilities"):
        AnswerOptions(sampling=SamplingParams(logprobs=2))


def test_answers_are_sampled_from_the_likeliest_tokens(engine):
    greedy = engine.answer(QUESTION, BRIEF).text
    hot = replace(BRIEF.sampling, temperature=100.0, top_k=1, seed=1)
    assert engine.answer(QUESTION, BRIEF, sampling=hot).text == greedy
    assert engine.answer(QUESTION, BRIEF, sampling=replace(hot, top_k=0)).text != greedy


def test_threads_that_add_the_same_add_it_once(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine, ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(engine.add, DOCUMENTS) for _ in range(3)]:
            done.result()
        assert len(engine.index) == 5


def test_adding_again_computes_what_is_missing(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add(DOCUMENTS)
        engine.store.evict(1)
        assert engine.store.stats().blocks < 5
        assert engine.add(DOCUMENTS).unchanged == 5
        assert engine.store.stats().blocks == 5
        engine.add(DOCUMENTS, kinds=("bidirectional", "causal"))
        assert engine.store.stats().blocks == 10
        trace = engine.answer(QUESTION, blocks="causal", max_new_tokens=2).trace
        assert trace.tokens_computed == 0


def test_a_full_disk_does_not_take_the_answer(grit, tmp_path, monkeypatch):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add(DOCUMENTS)

        def full(*_):
            raise StoreFullError("no room on the disk")

        monkeypatch.setattr(engine.store, "put", full)
        answer = engine.answer(QUESTION, blocks="bidirectional", max_new_tokens=4)
        assert answer.trace.tokens_computed > 0


def test_a_second_writer_is_told_who_writes(grit, engine):
    with pytest.raises(InputError, match="process"):
        RagEngine.open(engine.place, grit)


def test_a_reader_answers_beside_the_writer(grit, engine):
    with RagEngine.open(engine.place, grit, read_only=True) as reader:
        ours, theirs = (
            each.answer(QUESTION, max_new_tokens=8, top_k=2) for each in (reader, engine)
        )
        assert ours.text == theirs.text


def test_reuse_is_refused_where_the_check_fails(grit, tmp_path, monkeypatch):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add(DOCUMENTS)
        monkeypatch.setattr(
            "gritlm.rag.reuse.reuse_check.check", lambda *_, **__: ReuseCheck(3.0, 0.001)
        )
        with pytest.raises(ModelError, match="differ by 3 of their spread"):
            engine.answer(QUESTION, mode="doc")
        assert engine.answer(QUESTION, mode="none", max_new_tokens=2).trace.mode == "none"
        with pytest.raises(ModelError, match="differ by 3 of their spread"):
            engine.find(QUESTION, Search(rerank=2))


def test_a_model_whose_keys_cannot_be_moved_reads_all_of_it(grit, tmp_path, monkeypatch):
    monkeypatch.setattr(type(grit.lm), "rope", lambda _: None)
    with RagEngine.open(tmp_path / "store", grit) as engine:
        engine.add(DOCUMENTS)
        with pytest.raises(ModelError, match="its keys cannot be moved"):
            engine.answer(QUESTION, mode="doc")
        answer = engine.answer(QUESTION, mode="none", max_new_tokens=2)
        assert answer.trace.mode == "none"
        assert answer.trace.tokens_reused == 0


def test_the_check_is_kept_beside_the_store(engine: RagEngine):
    engine.answer(QUESTION, mode="doc", max_new_tokens=2)
    assert (Path(engine.place) / "parity.json").is_file()
