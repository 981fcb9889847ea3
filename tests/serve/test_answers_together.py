"""Answers from documents that wait together are prefilled in common passes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from gritlm import GritLM
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.sampling import SamplingParams
from gritlm.rag import together
from gritlm.rag.engine import RagEngine
from gritlm.rag.options import AnswerOptions
from gritlm.rag.prefill import Prefiller
from gritlm.rag.together import PlannedAnswer
from gritlm.serve.documents.document_store import DocumentStore, RunningAnswer
from gritlm.serve.engine.requests import JointRun, ModelJob, ResumeRequest
from gritlm.serve.engine.scheduler import Scheduler
from tests import tiny
from tests.serve.asking import PATIENCE_S, Asked, held, scheduled, to_write

DOCUMENTS = [{"id": f"d{number}", "text": text} for number, text in enumerate(tiny.SENTENCES)]
QUESTIONS = ["What colour is the ball?", "Who has a car?", "When does water boil?", "Is it a cat?"]
TOKENS = 12
WIDE = {"max_num_seqs": 8, "max_num_batched_tokens": 4096}  # all questions fit one pass
BOUND = 1e-5


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    made = GritLM(tiny_model(max_position_embeddings=1024), dtype="float32", device="cpu")
    fusion = FusionSettings(cosine=1.0, margin=2.0, absent=0.1)
    made.settings = dataclasses.replace(made.settings, fusion=fusion)
    return made


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory) -> Iterator[RagEngine]:
    with RagEngine.open(tmp_path_factory.mktemp("together") / "store", model) as made:
        made.add(DOCUMENTS, kinds=["causal", "bidirectional"])
        yield made


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Rows of each pass over rows."""
    noted: list[int] = []
    prefill = RowBatch.prefill_rows

    def noting(batch, ids, *, keep=1):
        noted.append(len(ids))
        return prefill(batch, ids, keep=keep)

    monkeypatch.setattr(RowBatch, "prefill_rows", noting)
    return noted


def options_of(**settings) -> AnswerOptions:
    return AnswerOptions(sampling=SamplingParams(TOKENS), **settings)


class Answering:
    """A question to the engine's thread, planned as the server plans it."""

    def __init__(self, store: DocumentStore, question: str, options: AnswerOptions) -> None:
        query = store.embed(question, options, lambda: None)
        plan = store.plan(query, store.nearest(query, options)[: options.top_k], options)
        self.answer = RunningAnswer(store, PlannedAnswer(query, plan, options))
        self.request = ResumeRequest(
            self.answer.begin,
            plan.tokens,
            options.sampling,
            plan.sequences,
            joint=self.answer.joint,
        )

    def submit(self, scheduler: Scheduler, seen=None) -> Asked:
        self.asked = Asked(scheduler, self.request, seen)
        return self.asked


def answering(engine: RagEngine, options: AnswerOptions) -> list[Answering]:
    store = DocumentStore(engine)
    return [Answering(store, question, options) for question in QUESTIONS]


def counted(trace: Mapping[str, Any]) -> dict[str, object]:
    """Return the counts of a trace; a block that was read once is in memory later."""
    names = [n for n in trace if n.startswith("tokens_") and n != "tokens_generated"]
    parts = [(each["part"], each["tokens"], each["tier"] == "read") for each in trace["parts"]]
    nbytes = sum(trace["bytes_read"].values())
    about = {"parts": parts, "bytes": nbytes, "supported": trace["supported"]}
    return about | {name: trace[name] for name in names}


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 1}, {"mode": "none", "fusion": "sequence"}, {"blocks": "bidirectional"}],
    ids=str,
)
def test_answers_are_those_of_the_engine_in_common_passes(model, engine, passes, settings):
    options = options_of(**settings)
    expected = [engine.answer(question, options) for question in QUESTIONS]
    questions = answering(engine, options)
    rows = [len(each.answer.planned.plan.rows) for each in questions]
    passes.clear()
    with scheduled(model, **WIDE) as scheduler:
        with held(scheduler):
            asked = [each.submit(scheduler) for each in questions]
        assert [one.text for one in asked] == [answer.text for answer in expected]
    bare = sum(number > 1 for number in rows)
    assert passes[-1] == len(QUESTIONS)
    if bare:
        assert set(passes[:-1]) == {sum(rows) + bare}
    for each, answer in zip(questions, expected, strict=True):
        assert counted(each.answer.trace()) == counted(answer.trace.as_dict())
        for ours, theirs in zip(each.answer.sources(), answer.sources, strict=True):
            assert ours["id"] == theirs.id
            if theirs.likelihood is not None:
                assert ours["likelihood"] == pytest.approx(theirs.likelihood, rel=BOUND)


@pytest.mark.parametrize("settings", [{"fusion": "token"}, {"fusion": "joint"}], ids=str)
def test_prompts_that_share_no_passes_are_prefilled_alone(engine, settings):
    assert all(each.request.joint is None for each in answering(engine, options_of(**settings)))


def test_a_pass_has_no_more_tokens_than_a_step_may_prefill(model, engine, passes):
    expected = [engine.answer(question, options_of()).text for question in QUESTIONS]
    questions = answering(engine, options_of())
    joint = [each.request.joint for each in questions]
    assert len({each.rows for each in joint}) == 1
    budget = (joint[0].rows + joint[1].rows) * max(joint[0].tokens, joint[1].tokens)
    passes.clear()
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": budget}
    with scheduled(model, **limits) as scheduler:
        with held(scheduler):
            asked = [each.submit(scheduler) for each in questions]
        assert [one.text for one in asked] == expected
    assert max(passes) == joint[0].rows + joint[1].rows


def test_a_request_of_another_kind_keeps_its_place_between_answers(model, engine, passes):
    questions = answering(engine, options_of(top_k=1))
    begun: list[str] = []
    passes.clear()
    with scheduled(model, **WIDE) as scheduler:
        with held(scheduler):
            for number, each in enumerate(questions[:2]):
                each.submit(scheduler, lambda _, n=number: begun.append(f"answer {n}"))
            chat = to_write(model, "Tell me about cats.", 1)
            Asked(scheduler, chat, lambda _: begun.append("chat"))
            for number, each in enumerate(questions[2:], start=2):
                each.submit(scheduler, lambda _, n=number: begun.append(f"answer {n}"))
        for each in questions:
            each.asked.ended()
    order = list(dict.fromkeys(begun))
    assert order == ["answer 0", "answer 1", "chat", "answer 2", "answer 3"]
    assert passes[0] == 2


def test_a_block_that_cannot_be_loaded_fails_its_own_answer_only(model, engine, monkeypatch):
    expected = [engine.answer(question, options_of()) for question in QUESTIONS]
    questions = answering(engine, options_of())
    bad = questions[1].answer.planned.plan
    load = Prefiller.load_rows

    def breaks(prefiller, plan, **others):
        if plan is bad:
            raise OSError("a block that cannot be read")
        return load(prefiller, plan, **others)

    monkeypatch.setattr(Prefiller, "load_rows", breaks)
    with scheduled(model, **WIDE) as scheduler:
        with held(scheduler):
            for each in questions:
                each.submit(scheduler)
        assert "cannot be read" in str(questions.pop(1).asked.error)
        assert [each.asked.text for each in questions] == [
            answer.text for answer in expected[:1] + expected[2:]
        ]
        assert scheduler.stats().kv_used == 0
    # The attempt together counts nothing.
    for each, answer in zip(questions, expected[:1] + expected[2:], strict=True):
        assert counted(each.answer.trace()) == counted(answer.trace.as_dict())


@pytest.mark.parametrize("cancelled", [[1], [0], [0, 1, 2, 3]], ids=str)
def test_cancelled_answers_do_not_end_the_others(model, engine, monkeypatch, cancelled):
    expected = [engine.answer(question, options_of()).text for question in QUESTIONS]
    questions = answering(engine, options_of())
    choose = together._choose
    reached, go = threading.Event(), threading.Event()

    def waits(*arguments):
        reached.set()
        assert go.wait(PATIENCE_S)
        return choose(*arguments)

    monkeypatch.setattr(together, "_choose", waits)
    with scheduled(model, **WIDE) as scheduler:
        with held(scheduler):
            for each in questions:
                each.submit(scheduler)
        assert reached.wait(PATIENCE_S)
        for number in cancelled:
            questions[number].asked.ticket.cancel()
        go.set()
        for number, each in enumerate(questions):
            if number not in cancelled:
                assert each.asked.text == expected[number]
        chat = Asked(scheduler, to_write(model, "Tell me about cats.", 2))
        assert chat.text
        assert scheduler.stats().kv_used == 0
    assert not any(questions[number].asked.events for number in cancelled)


def test_sequences_decode_between_the_passes_of_answers(model, engine, monkeypatch):
    questions = answering(engine, options_of())
    steps: list[int] = []
    read = RowBatch.prefill_rows
    with scheduled(model, **WIDE) as scheduler:

        def noting(batch, ids, *, keep=1):
            steps.append(scheduler.stats().steps)
            return read(batch, ids, keep=keep)

        monkeypatch.setattr(RowBatch, "prefill_rows", noting)
        text = "Tell me about cats."
        endless = {"ignore_eos": True, "prompt_lookup_num_tokens": 0}
        chat = Asked(scheduler, to_write(model, text, 300, **endless)).begun()
        with held(scheduler):
            for each in questions:
                each.submit(scheduler)
        for each in questions:
            assert each.asked.text
        chat.ticket.cancel()
    assert len(set(steps)) == len(steps)


def embedding_jobs(store: DocumentStore, questions: list[str]) -> list[ModelJob]:
    options = options_of()
    return [
        ModelJob(
            lambda checkpoint, question=question: store.embed(question, options, checkpoint),
            nested=True,
            joint=JointRun(store.embed_together, (question, options), 1, 12),
        )
        for question in questions
    ]


def test_questions_that_wait_are_embedded_in_one_pass(model, engine, monkeypatch):
    store = DocumentStore(engine)
    expected = [store.embed(question, options_of(), lambda: None) for question in QUESTIONS]
    encode = GritLM.encode
    passes: list[int] = []

    def noting(model, texts, **options):
        passes.append(len(texts))
        return encode(model, texts, **options)

    monkeypatch.setattr(GritLM, "encode", noting)
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, job) for job in embedding_jobs(store, QUESTIONS)]
        found = [one.value for one in asked]
    assert passes == [len(QUESTIONS)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.question == theirs.question
        np.testing.assert_allclose(ours.vector_D, theirs.vector_D, atol=BOUND)
        assert ours.trace.tokens_embedded == theirs.trace.tokens_embedded


def test_a_question_that_cannot_be_embedded_fails_alone(model, engine):
    store = DocumentStore(engine)
    with scheduled(model) as scheduler:
        with held(scheduler):
            jobs = embedding_jobs(store, [QUESTIONS[0], " ", QUESTIONS[1], QUESTIONS[2]])
            asked = [Asked(scheduler, job) for job in jobs]
            asked[3].ticket.cancel()
        assert str(asked[1].error).startswith("the question is empty")
        found = [asked[n].value.question for n in (0, 2)]
    assert found == [QUESTIONS[0], QUESTIONS[1]]
    assert not asked[3].events
