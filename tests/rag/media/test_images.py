"""Images in a store: they are embedded, kept, and answers come from their blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gritlm.errors import InputError
from gritlm.lm.generator import complete, prefill, prefill_with_logits, prefix_cache
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.sampling import SamplingParams
from gritlm.prompts import for_rag
from gritlm.rag.engine import RagEngine
from gritlm.rag.media.media_passages import vectors_of
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import question_after
from gritlm.rag.retrieve import Search
from tests.rag.media.conftest import QUESTION, opened, picture

FAMILIES = ("smolvlm", "internvl", "llava_onevision", "qwen2_5_vl", "qwen3_vl")
BRIEF = SamplingParams(max_new_tokens=8)


def fresh(engine: RagEngine, path, kind: str = "causal") -> str:
    """The answer of one pass over the image and the question, without a store."""
    model = engine.model
    tail = engine._assembler.tokens.for_chat(
        for_rag("doc", question=QUESTION, documents=()), start=False
    )
    _, (block,) = model.encode_document([path], get_cache=True)
    assert not block.causal
    if kind == "causal":
        prompt = engine._assembler.media.prompt("", "image", path.read_bytes())
        assert prompt.ids == block.token_ids.tolist()
        block = model.lm.causal_block(torch.tensor(prompt.ids), media=prompt.media)
    sampler = BRIEF.sampler(end_ids=model.end_ids)
    tokens = complete(
        model.lm, tail.ids, kv=block, sampler=sampler, max_new_tokens=8, end_ids=model.end_ids
    )
    return model.tokenizer.decode([*tokens], skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_an_answer_from_a_stored_image_is_that_of_a_fresh_pass(model_of, tmp_path, family, kind):
    model = model_of(family)
    path = picture(tmp_path / "photo.png")
    with opened(tmp_path / "store", model, blocks=kind) as engine:
        added = engine.add([path])
        assert (added.documents, added.passages, added.skipped) == (1, 1, [])
        expected = fresh(engine, path, kind)
    with opened(tmp_path / "store", model, read_only=True) as engine:
        answer = engine.answer(QUESTION, sampling=BRIEF)
    assert answer.text == expected
    assert answer.trace.bytes_read.keys() == {"disk"}
    assert answer.trace.tokens_reused == len(engine._assembler.media.ids(answer.sources[0].id))
    (source,) = answer.sources
    assert source.media.kind == "image"
    assert source.document_id.endswith("/photo.png")


def test_the_vector_is_that_of_encode_document(seeing, tmp_path):
    path = picture(tmp_path / "photo.png")
    with opened(tmp_path / "store", seeing) as engine:
        engine.add([path])
        (hit,) = engine.retrieve(QUESTION)
    expected = seeing.similarity(seeing.encode_query(QUESTION), seeing.encode_document([path]))
    assert abs(hit.score - float(expected)) < 1e-4


@pytest.mark.parametrize("family", ["smolvlm", "qwen2_5_vl"])
@pytest.mark.parametrize("fusion", ["sequence", "token"])
def test_several_images_and_texts_are_fused(model_of, tmp_path, family, fusion):
    model = model_of(family)
    pictures = [picture(tmp_path / f"{n}.png", n) for n in range(2)]
    options = AnswerOptions(top_k=3, fusion=fusion, margin=2.0, sampling=BRIEF)
    with opened(tmp_path / "store", model) as engine:
        engine.add([*pictures, {"id": "cats", "text": "Cats sleep most of the day."}])
        cached = engine.answer(QUESTION, options)
        engine.store.delete(
            [
                engine.store.key(i, causal=True)
                for i in engine._assembler.ids_of(
                    [hit.passage for hit in engine.retrieve(QUESTION, top_k=3)]
                )
            ]
        )
        computed = engine.answer(QUESTION, options)
    assert cached.text == computed.text
    assert cached.trace.tokens_computed == 0 < computed.trace.tokens_computed
    assert len(cached.sources) == (3 if fusion == "token" else len(cached.sources))


def test_every_mode_reads_images_or_refuses_them(seeing, tmp_path):
    with opened(tmp_path / "store", seeing) as engine:
        engine.add([picture(tmp_path / f"{n}.png", n) for n in range(2)])
        for mode in ("none", "doc", "doc-query", "query-doc"):
            options = AnswerOptions(top_k=2, mode=mode, fusion="joint", sampling=BRIEF)
            assert len(engine.answer(QUESTION, options).sources) == 2
        with pytest.raises(InputError, match="mode 'query' reads the text of passages"):
            engine.answer(QUESTION, AnswerOptions(mode="query", sampling=BRIEF))


def test_joint_blocks_of_images_are_those_of_one_masked_pass(seeing, tmp_path):
    """Joined images, moved to their place, against a pass in which all are computed in place."""
    with opened(tmp_path / "store", seeing) as engine:
        engine.add([picture(tmp_path / f"{n}.png", n) for n in range(2)])
        hits = engine.retrieve(QUESTION, top_k=2)
        options = AnswerOptions(top_k=2, fusion="joint", sampling=BRIEF, recompute=None)
        joint = engine.prepare(QUESTION, options, hits=hits)
        library = engine._assembler.media
        prompts = [library.prompt_of(hit.passage) for hit in reversed(hits)]
        lm = seeing.lm
        blocks = [lm.causal_block(torch.tensor(p.ids), media=p.media) for p in prompts]
        cut = len(engine._assembler.prefix)
        whole = KVBlock.join([blocks[0], blocks[1][cut:]])
        tail = engine._assembler.plan("doc", QUESTION, hits, max_new_tokens=8).ids
        logits_V = prefill(lm, prefix_cache(lm, whole, room=len(tail)), tail)
    assert (joint.prompt.logits_V - logits_V).abs().max() < 1e-4


def test_images_of_m_rope_are_not_joined(model_of, tmp_path):
    with opened(tmp_path / "store", model_of("qwen2_5_vl")) as engine:
        engine.add([picture(tmp_path / f"{n}.png", n) for n in range(2)])
        for mode in ("doc", "doc-query", "query-doc"):
            options = AnswerOptions(top_k=2, mode=mode, fusion="joint", sampling=BRIEF)
            with pytest.raises(InputError, match=r"M-RoPE.*use fusion='sequence'"):
                engine.answer(QUESTION, options)
        options = AnswerOptions(top_k=2, mode="none", fusion="joint", sampling=BRIEF)
        assert len(engine.answer(QUESTION, options).sources) == 2


def test_answers_together_are_those_alone(model_of, tmp_path):
    questions = [QUESTION, "Which colour has it?"]
    for family in ("smolvlm", "qwen2_5_vl"):
        with opened(tmp_path / family, model_of(family)) as engine:
            engine.add([picture(tmp_path / f"{n}.png", n) for n in range(2)])
            options = AnswerOptions(top_k=2, margin=2.0, sampling=BRIEF)
            together = engine.answers(questions, options)
            alone = [engine.answer(question, options) for question in questions]
        assert [each.text for each in together] == [each.text for each in alone]


def test_unchanged_images_are_left_and_changed_ones_replaced(seeing, tmp_path):
    path = picture(tmp_path / "photo.png")
    with opened(tmp_path / "store", seeing) as engine:
        engine.add([path])
        first = {each.name for each in (tmp_path / "store/media").iterdir()}
        assert engine.add([path]).unchanged == 1
        picture(path, seed=1)
        assert engine.add([path]).replaced == 1
        second = {each.name for each in (tmp_path / "store/media").iterdir()}
        assert len(first) == len(second) == 2
        assert not first & second
        assert engine.store.stats().blocks == 1
        (document,) = engine.documents()
        assert engine.delete(document.id) == 1
        assert not [*(tmp_path / "store/media").iterdir()]
        assert engine.store.stats().blocks == 0


def test_a_lost_or_changed_file_is_reported(seeing, tmp_path):
    path = picture(tmp_path / "photo.png")
    with opened(tmp_path / "store", seeing) as engine:
        engine.add([path])
        (hit,) = engine.retrieve(QUESTION)
        name = hit.passage.id
        file = tmp_path / "store/media" / f"{name}.png"
        picture(file, seed=3)
        options = AnswerOptions(mode="none", sampling=BRIEF)
        with pytest.raises(InputError, match="is not the one that was indexed; index"):
            engine.answer(QUESTION, options)
        engine.answer(QUESTION, sampling=BRIEF)  # the block does not need the file
        file.unlink()
        with pytest.raises(InputError, match="has lost its file"):
            engine.answer(QUESTION, options)
        file.with_suffix(".ids").unlink()
        engine._assembler.media._known.clear()
        with pytest.raises(InputError, match="is not in the store"):
            engine.answer(QUESTION, sampling=BRIEF)


def test_bad_images_are_skipped_and_leave_nothing(seeing, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    with opened(tmp_path / "store", seeing) as engine:
        added = engine.add([tmp_path / "in"])
        broken, empty = (each.reason for each in added.skipped)
        assert broken.startswith("the image is not an image that is read here; expected PNG, JPEG")
        assert empty == "the image is an empty file; save it again"
        assert added.documents == 0
        assert not (tmp_path / "store/media").exists()


def test_a_model_of_text_skips_images_and_refuses_pages(grit, tmp_path):
    picture(tmp_path / "photo.png")
    with opened(tmp_path / "store", grit) as engine:
        (skipped,) = engine.add([tmp_path / "photo.png"]).skipped
        assert skipped.reason == (
            ".png: this model reads text only; load a model that reads images, such as SmolVLM or "
            "Qwen2.5-VL"
        )
        with pytest.raises(InputError, match=r"the reader pages embeds .* text only"):
            engine.add([tmp_path / "photo.png"], reader="pages")


def test_a_failure_while_embedding_leaves_no_file(seeing, tmp_path, monkeypatch):
    monkeypatch.setattr(type(seeing.encoder), "vectors_and_blocks", lambda *_: np.zeros(3)[7])
    with opened(tmp_path / "store", seeing) as engine:
        with pytest.raises(IndexError):
            engine.add([picture(tmp_path / "photo.png")])
        assert not [*(tmp_path / "store/media").iterdir()]
        assert engine.documents() == []


def test_metadata_of_gritlm_is_not_taken_from_documents(seeing, tmp_path):
    row = {"id": "a", "text": "Cats.", "metadata": {"gritlm.media": "image"}}
    with opened(tmp_path / "store", seeing) as engine:
        (skipped,) = engine.add([row]).skipped
    assert "'gritlm.media' begins with 'gritlm.'" in skipped.reason


def test_a_repair_embeds_images_again_as_images(seeing, tmp_path):
    path = picture(tmp_path / "photo.png")
    with opened(tmp_path / "store", seeing) as engine:
        engine.add([path, {"id": "cats", "title": "Cats", "text": "They sleep."}])
        passages = list(engine.index.passages(engine.index.known()))
        library = engine._assembler.media
        vectors_ND = vectors_of(seeing, library, passages)
        inputs = [path if each.media else "Cats They sleep." for each in passages]
        expected_ND = seeing.encode_document(inputs)
        assert np.abs(vectors_ND - expected_ND).max() < 1e-4
        library.delete([each.id for each in passages])
        with pytest.raises(InputError, match="has lost its file"):
            vectors_of(seeing, library, passages)


@pytest.mark.parametrize("method", ["likelihood", "yes-no"])
@pytest.mark.parametrize("family", ["smolvlm", "qwen2_5_vl"])
def test_images_are_reranked_by_the_model(model_of, tmp_path, family, method):
    model = model_of(family)
    with opened(tmp_path / "store", model) as engine:
        engine.add([picture(tmp_path / f"{n}.png", n) for n in range(3)])
        found = engine.find(QUESTION, Search(top_k=3, rerank=3, rerank_method=method))
        assert [hit.rank for hit in found] == [1, 2, 3]
        if method == "yes-no":
            return
        ids, span = question_after(engine._assembler.tokens, QUESTION)
        scores = []
        for hit in found:  # each alone, after its own block
            prompt = engine._assembler.media.prompt_of(hit.passage)
            block = model.lm.causal_block(torch.tensor(prompt.ids), media=prompt.media)
            cache = prefix_cache(model.lm, block, room=len(ids))
            logits_SV = prefill_with_logits(model.lm, cache, ids).log_softmax(dim=-1)
            places = range(*span)
            scores.append(sum(float(logits_SV[at - 1, ids[at]]) for at in places) / len(places))
        assert scores == sorted(scores, reverse=True)
