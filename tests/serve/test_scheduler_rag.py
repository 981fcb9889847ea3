"""Answers whose prompt cached RAG reads, and models that are written one row at a time."""

from __future__ import annotations

import pytest
from transformers.cache_utils import DynamicCache

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.engine import RagEngine
from gritlm.rag.fusion import Mixture
from gritlm.rag.options import AnswerOptions
from gritlm.rag.prefill import PrefilledPrompt
from gritlm.serve.engine import kv_slots
from gritlm.serve.engine.errors import PromptTooLongError, TooManyRowsError
from gritlm.serve.engine.requests import ModelJob, ResumeRequest
from gritlm.serve.engine.scheduler import Scheduler
from tests import tiny
from tests.serve.asking import Asked, held, scheduled, texts_of, to_write

DOCUMENTS = [{"id": f"d{number}", "text": text} for number, text in enumerate(tiny.SENTENCES)]
QUESTION = "What colour is the ball?"
TOKENS = 24


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    folder = tiny_model(max_position_embeddings=1024)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    with RagEngine.open(tmp_path_factory.mktemp("engine") / "store", model) as made:
        made.add(DOCUMENTS)
        yield made


def continuing(
    engine: RagEngine, mode: str, tokens: int = TOKENS, fusion: str | None = None
) -> ResumeRequest:
    hits = engine.retrieve(QUESTION, top_k=3)
    sampling = SamplingParams(tokens)
    options = AnswerOptions(mode=mode, fusion=fusion, sampling=sampling)

    def begin(checkpoint: object) -> PrefilledPrompt:
        return engine.prepare(QUESTION, options, hits=hits).prompt

    return ResumeRequest(begin, 300, sampling, rows=len(hits) if fusion == "token" else 1)


def kv_used_between_steps(scheduler: Scheduler) -> int:
    return int(Asked(scheduler, ModelJob(lambda _: scheduler.stats().kv_used)).value)


@pytest.mark.parametrize(
    ("mode", "fusion"),
    [
        ("none", None),
        ("doc", None),
        ("query-doc", None),
        ("doc", "joint"),
        ("doc", "token"),
        ("none", "token"),
    ],
)
def test_an_answer_from_documents_is_that_of_the_engine(model, engine, mode, fusion):
    expected = engine.answer(
        QUESTION, mode=mode, fusion=fusion, top_k=3, max_new_tokens=TOKENS
    ).text
    with scheduled(model, max_num_seqs=8) as scheduler:
        with held(scheduler):
            beside = Asked(scheduler, to_write(model, "Tell me about cats.", TOKENS))
            asked = [Asked(scheduler, continuing(engine, mode, fusion=fusion)) for _ in range(2)]
        assert [one.text for one in asked] == [expected] * 2
        assert beside.text == model.chat("Tell me about cats.", max_new_tokens=TOKENS)
        assert scheduler.stats().steps < 2 * TOKENS


def test_an_answer_from_documents_begins_while_a_batch_of_texts_is_read(model, engine, monkeypatch):
    expected = engine.answer(QUESTION, mode="doc", top_k=3, max_new_tokens=4).text
    work, packed = continuing(engine, "doc", 4), UnifiedLM._packed
    answers: list[Asked] = []
    with scheduled(model) as scheduler:

        def slow(lm, view, ids_T, lengths, cache, pause=None):
            if not answers:  # the question is embedded too, within this one
                answers.append(Asked(scheduler, work))
                while not answers[0].is_over:
                    pause()
            return packed(lm, view, ids_T, lengths, cache, pause)

        monkeypatch.setattr(UnifiedLM, "_packed", slow)
        assert Asked(scheduler, texts_of([20])).value.shape == (1, 48)
    assert answers[0].text == expected


def test_what_somebody_else_read_is_no_prefix_for_others(model, engine):
    with scheduled(model, max_num_seqs=1) as scheduler:
        Asked(scheduler, continuing(engine, "doc", 4)).ended()
        chat = Asked(scheduler, to_write(model, "What is water?", 8)).ended()
        assert chat.started.cached_tokens == 0
        assert chat.text == model.chat("What is water?", max_new_tokens=8)


def test_a_state_that_does_not_fit_a_slot_is_refused_with_the_numbers(model, engine):
    with scheduled(model, max_model_len=64) as scheduler:
        error = Asked(scheduler, continuing(engine, "doc")).error
    assert isinstance(error, PromptTooLongError)
    assert error.limit == 64 < error.tokens


@pytest.mark.parametrize("separate", [False, True])
def test_rows_and_single_sequences_take_the_same_decode_steps(model, engine, monkeypatch, separate):
    expected = engine.answer(QUESTION, fusion="token", top_k=3, max_new_tokens=TOKENS).text
    text = model.chat("Tell me about cats.", max_new_tokens=TOKENS)
    together: list[int] = []
    if separate:
        made = kv_slots.SeparateSlots
        monkeypatch.setattr("gritlm.serve.engine.scheduler.allocate_kv_slots", made)
    kind = kv_slots.SeparateSlots if separate else kv_slots.BatchedSlots
    step = kind.step

    def counting(slots, running, tokens):
        together.append(len(running))
        return step(slots, running, tokens)

    monkeypatch.setattr(kind, "step", counting)
    with scheduled(model, max_num_seqs=8) as scheduler:
        with held(scheduler):
            first = Asked(scheduler, continuing(engine, "doc", fusion="token"))
            chats = [Asked(scheduler, to_write(model, "Tell me about cats.", TOKENS))]
            last = Asked(scheduler, continuing(engine, "doc", 3, fusion="token"))
        assert first.text == expected
        assert expected.startswith(last.text)
        assert [one.text for one in chats] == [text]
        again = Asked(scheduler, to_write(model, "Tell me about cats.", TOKENS))
        assert again.text == text
    assert max(together) == 7  # three rows of each answer, and the chat


@pytest.mark.parametrize("separate", [False, True])
def test_an_error_in_mixed_rows_ends_their_own_answer_only(model, engine, monkeypatch, separate):
    texts = ["Tell me about cats.", "What is water?"]
    expected = [model.chat(text, max_new_tokens=TOKENS) for text in texts]
    whole = engine.answer(QUESTION, fusion="token", top_k=3, max_new_tokens=TOKENS).text
    if separate:
        made = kv_slots.SeparateSlots
        monkeypatch.setattr("gritlm.serve.engine.scheduler.allocate_kv_slots", made)
    mixed = Mixture.__call__
    calls: list[Mixture] = []

    def breaks(mixture, logits_BV):
        calls.append(mixture)
        if mixture is calls[0] and calls.count(mixture) == 4:
            raise RuntimeError("rows that cannot be mixed")
        return mixed(mixture, logits_BV)

    monkeypatch.setattr(Mixture, "__call__", breaks)
    with scheduled(model, max_num_seqs=8) as scheduler:
        with held(scheduler):
            bad = Asked(scheduler, continuing(engine, "doc", fusion="token"))
            good = [Asked(scheduler, to_write(model, text, TOKENS)) for text in texts]
            other = Asked(scheduler, continuing(engine, "doc", fusion="token"))
        assert str(bad.error) == "rows that cannot be mixed"
        assert [one.text for one in good] == expected
        assert other.text == whole
        assert kv_used_between_steps(scheduler) == 0
        assert other.text == Asked(scheduler, continuing(engine, "doc", fusion="token")).text


def test_every_row_of_an_answer_has_a_kv_slot(model, engine):
    used: list[int] = []
    with scheduled(model, max_num_seqs=4) as scheduler:

        def seen(_):
            used.append(scheduler.stats().kv_used)

        with held(scheduler):
            answer = Asked(scheduler, continuing(engine, "doc", 3, fusion="token"), seen)
            again = Asked(scheduler, continuing(engine, "doc", 3, fusion="token"))
        assert again.text == answer.text
        assert kv_used_between_steps(scheduler) == 0
    hits = engine.retrieve(QUESTION, top_k=3)
    options = AnswerOptions(fusion="token", sampling=SamplingParams(3))
    caches = engine.prepare(QUESTION, options, hits=hits).prompt.caches
    assert len(caches) == 3
    assert used[0] == sum(int(cache.get_seq_length()) for cache in caches)


def test_an_answer_waits_until_all_of_its_rows_have_slots(model, engine):
    with scheduled(model, max_num_seqs=3) as scheduler:
        with held(scheduler):
            chat = Asked(scheduler, to_write(model, "Tell me about cats.", 8))
            answer = Asked(scheduler, continuing(engine, "doc", 3, fusion="token"))
            behind = Asked(scheduler, to_write(model, "What is water?", 3))
        for one in (behind, answer, chat):
            one.ended()
        assert chat.text == model.chat("Tell me about cats.", max_new_tokens=8)
        assert behind.text == model.chat("What is water?", max_new_tokens=3)
    begun = [one.ticket.begun for one in (chat, answer, behind)]
    assert begun == sorted(begun)


def test_more_rows_than_slots_are_refused_with_the_numbers(model, engine):
    with scheduled(model, max_num_seqs=2) as scheduler:
        with pytest.raises(TooManyRowsError, match="from 3 prompts together, the server has 2 KV"):
            Asked(scheduler, continuing(engine, "doc", fusion="token"))
        assert scheduler.stats().waiting == 0


def test_models_whose_cache_holds_more_are_written_one_row_at_a_time(model, engine, monkeypatch):
    monkeypatch.setattr(UnifiedLM, "new_cache", lambda lm, _: DynamicCache(config=lm.config))
    texts = ["Tell me about cats.", "What is water?", "Ann has a red ball."]
    expected = [model.chat(text, max_new_tokens=20) for text in texts]
    with scheduled(model, max_num_seqs=3) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, to_write(model, text, 20)) for text in texts]
        assert [one.text for one in asked] == expected
        assert scheduler.stats().steps <= 20
        again = Asked(scheduler, to_write(model, texts[0], 20)).ended()
        assert again.started.cached_tokens == 0
        assert again.text == expected[0]
