"""Several questions answered together are answered as one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.sampling import SamplingParams
from gritlm.rag import together
from gritlm.rag.answer import Answer
from gritlm.rag.engine import RagEngine
from gritlm.rag.options import AnswerOptions
from tests.rag.conftest import QUESTION, TEXTS

BOUND = 1e-5
DOCUMENTS = [{"id": f"d{n}", "text": text, "metadata": {"n": n}} for n, text in enumerate(TEXTS)]
QUESTIONS = [
    QUESTION,
    "Who?",
    "When does water boil, when does it freeze, and how do we know that at all?",
    QUESTION,
    "What do cats do for most of the day?",
]
FORMS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"mode": "none", "fusion": "sequence"},
    {"margin": 0.01},
    {"blocks": "bidirectional"},
    {"fusion": "token", "contrast": 0.5},
    {"fusion": "joint"},
    {"rerank": 4, "rerank_method": "likelihood"},
]


@pytest.fixture(scope="module")
def engine(grit: GritLM, tmp_path_factory) -> Iterator[RagEngine]:
    with RagEngine.open(tmp_path_factory.mktemp("together") / "store", grit) as made:
        made.add(DOCUMENTS, kinds=["causal", "bidirectional"])
        yield made


@pytest.fixture(autouse=True)
def calibrated(grit: GritLM, monkeypatch) -> None:
    settings = FusionSettings(cosine=1.0, margin=2.0, absent=0.1)
    monkeypatch.setattr(grit, "settings", replace(grit.settings, fusion=settings))


def options_of(form: dict[str, Any], **sampling: Any) -> AnswerOptions:
    return AnswerOptions(sampling=SamplingParams(12, **sampling), **form)


def parts(answer: Answer) -> list[tuple[str, int, bool]]:
    """Name and tokens of each part of the prompt, and whether they were reused."""
    return [(p["part"], p["tokens"], p["tier"] != "read") for p in answer.trace.parts]


def assert_same(ours: Answer, theirs: Answer) -> None:
    assert ours.text == theirs.text
    assert [each.id for each in ours.sources] == [each.id for each in theirs.sources]
    assert [each.used for each in ours.sources] == [each.used for each in theirs.sources]
    for our, their in zip(ours.sources, theirs.sources, strict=True):
        assert (our.likelihood is None) == (their.likelihood is None)
        if their.likelihood is not None:
            assert our.likelihood == pytest.approx(their.likelihood, rel=BOUND)
        assert our.score == pytest.approx(their.score, abs=BOUND)
    assert ours.trace.supported == theirs.trace.supported
    for name, count in vars(theirs.trace).items():
        if name.startswith("tokens"):
            assert getattr(ours.trace, name) == count, name
    assert parts(ours) == parts(theirs)
    assert ours.trace.milliseconds.keys() >= {"embed", "first_token", "decode"}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_answers_are_those_of_single_questions(engine, form):
    options = options_of(form)
    alone = [engine.answer(question, options) for question in QUESTIONS]
    for ours, theirs in zip(engine.answers(QUESTIONS, options), alone, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0, "seed": 3},
        {"stop": ("a", "e")},
        {"stop": ("zzz",), "min_new_tokens": 4},
        {"repetition_penalty": 1.3},
        {"stop_token_ids": tuple(range(3, 200))},
    ],
    ids=str,
)
def test_every_answer_is_sampled_and_ended_as_alone(engine, sampling):
    options = options_of({}, **sampling)
    alone = [engine.answer(question, options) for question in QUESTIONS]
    for ours, theirs in zip(engine.answers(QUESTIONS, options), alone, strict=True):
        assert_same(ours, theirs)


def test_the_size_of_a_batch_changes_no_answer(engine, monkeypatch):
    options = options_of({})
    whole = engine.answers(QUESTIONS, options)
    monkeypatch.setattr(together, "MOST_QUESTIONS", 3)
    monkeypatch.setattr(together, "_MOST_TOKENS", 700)
    for ours, theirs in zip(engine.answers(QUESTIONS, options), whole, strict=True):
        assert_same(ours, theirs)


def test_questions_share_the_passes_of_the_model(engine, monkeypatch):
    passes: list[int] = []
    prefill = RowBatch.prefill_rows

    def noted(batch, ids, *, keep=1):
        passes.append(len(ids))
        return prefill(batch, ids, keep=keep)

    monkeypatch.setattr(RowBatch, "prefill_rows", noted)
    answers = engine.answers(QUESTIONS, options_of({}))
    most = max(answer.trace.tokens_generated for answer in answers)
    rows = 6 * len(QUESTIONS)  # each question with a row without passage, in some pieces
    assert 1 <= passes.count(rows) < len(QUESTIONS)
    assert passes[passes.count(rows)] == len(QUESTIONS)
    assert len(passes) <= passes.count(rows) + 1 + most


def test_drafts_of_several_answers_share_passes(engine, monkeypatch):
    passes: list[list[int]] = []
    prefill = RowBatch.prefill_rows

    def noted(batch, ids, *, keep=1):
        passes.append([len(each) for each in ids])
        return prefill(batch, ids, keep=keep)

    monkeypatch.setattr(RowBatch, "prefill_rows", noted)
    found = {}
    for most in (0, 10):
        sampling = SamplingParams(60, prompt_lookup_num_tokens=most, ignore_eos=True)
        passes.clear()
        answers = engine.answers(QUESTIONS, AnswerOptions(sampling=sampling))
        assert [answer.trace.tokens_generated for answer in answers] == [60] * len(QUESTIONS)
        decoded = passes[-59:] if most == 0 else [each for each in passes if sum(each) < 60]
        found[most] = [answer.text for answer in answers], decoded
    assert found[10][0] == found[0][0]
    assert {size for each in found[0][1] for size in each} == {1}
    assert max(size for each in found[10][1] for size in each) > 2
    assert any(0 in sizes for sizes in found[10][1]), "no answer ended before the others"


def test_a_question_that_cannot_be_answered_is_named(engine):
    with pytest.raises(InputError, match="question 1 of the list: the question is empty"):
        engine.answers([QUESTION, " "])
    with pytest.raises(InputError, match="question 1 of the list: the question"):
        engine.answers([QUESTION, "word " * 900])
    with pytest.raises(InputError, match="expected a list, or call answer"):
        engine.answers(QUESTION)
    assert engine.answers([]) == []
