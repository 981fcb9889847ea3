"""The settings of a task, measured on tiny models."""

from __future__ import annotations

import logging
from statistics import fmean

import pytest
import torch

from gritlm.errors import InputError, ModeError
from gritlm.evaluation.rag import measure as run
from gritlm.evaluation.rag.blocks import BlockCache
from gritlm.evaluation.rag.measure import measure
from gritlm.evaluation.rag.prompts import form_for
from gritlm.evaluation.rag.questions import load
from gritlm.evaluation.rag.settings import SETTINGS, asked
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.rag.reuse.recompute import FIRST
from tests.evaluation.rag.conftest import OTHERS, ROWS


def answers_of(model, questions, setting):
    pairs = asked(questions, setting)
    return run._answer(model, form_for(model), pairs, setting, "", progress=False)


def settings_of(results) -> list[str]:
    return [result.task.removeprefix("small (").removesuffix(")") for result in results]


def test_a_trained_model_is_asked_in_every_setting(trained, make_task):
    results = measure(trained, make_task())
    assert settings_of(results) == list(SETTINGS)
    for result in results:
        assert (result.half, result.kind, result.metric, result.count) == ("rag", "QA", "match", 3)
        assert result.score == pytest.approx(100 * fmean(result.items))
        assert set(result.details) == {
            "em",
            "f1",
            "tokens_prefilled",
            "first_token_ms",
            "own_chat_format",
        }
        assert result.details["own_chat_format"] == 0
        assert result.seconds > 0


def test_an_untrained_model_is_asked_afresh_and_it_is_said(untrained, make_task, caplog):
    with caplog.at_level(logging.INFO, logger="gritlm"):
        results = measure(untrained, make_task())
    assert settings_of(results) == ["no context", "oracle", "fresh", "shuffled"]
    assert {result.details["own_chat_format"] for result in results} == {1.0}
    assert "cached: left out, as the model was not trained here to embed" in caplog.text
    assert "asked in its own chat format" in caplog.text


def test_a_model_of_others_is_asked_in_its_own_format_and_embeds_unwarned(
    foreign, make_task, caplog
):
    found = measure(foreign, make_task())
    assert settings_of(found) == ["no context", "oracle", "fresh", "shuffled"]
    assert {result.details["own_chat_format"] for result in found} == {1.0}
    foreign.encode("a text")
    assert "trained to embed" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "mode", "reason"),
    [
        (ModelSettings(attn="cccc"), "unified", "the model embeds causally"),
        (ModelSettings(), "generative", "loaded with mode='generative'"),
    ],
)
def test_what_does_not_read_both_ways_has_causal_blocks_only(
    make_model, make_task, caplog, settings, mode, reason
):
    with caplog.at_level(logging.INFO, logger="gritlm"):
        found = settings_of(measure(make_model(settings, mode=mode), make_task()))
    assert found == [setting for setting in SETTINGS if setting != "cached"]
    assert reason in caplog.text


def test_a_single_question_cannot_be_shuffled(trained, make_task, caplog):
    with caplog.at_level(logging.INFO, logger="gritlm"):
        assert "shuffled" not in settings_of(measure(trained, make_task(), limit=1))
    assert "shuffled: left out" in caplog.text


@pytest.mark.parametrize("together", [1, 2, 16])
def test_what_a_model_writes_is_matched_with_its_row(trained, make_task, monkeypatch, together):
    monkeypatch.setattr(run, "ROWS_TOGETHER", together)
    questions = load(make_task().folder)
    made = answers_of(trained, questions, "fresh")
    written = [trained.tokenizer.decode(reply.ids) for reply in made]
    rows = [row | {"answers": [said]} for row, said in zip(ROWS, written, strict=True)]
    fresh = measure(trained, make_task([ROWS[0], *rows[1:]]))[SETTINGS.index("fresh")]
    assert fresh.items == (0.0, 1.0, 1.0)
    assert fresh.details["em"] == pytest.approx(200 / 3)


def test_one_causal_document_is_answered_as_a_fresh_one_token_for_token(trained, make_task):
    questions = load(
        make_task([row | {"documents": row["documents"][:1], "gold": 1} for row in ROWS]).folder
    )
    fresh, cached = (
        [reply.ids for reply in answers_of(trained, questions, setting)]
        for setting in ("fresh", "cached causal")
    )
    assert cached == fresh
    assert any(fresh)


def test_the_question_and_first_tokens_of_further_documents_are_read_where_those_are_cached(
    trained, make_task
):
    found = {r.task: r.details["tokens_prefilled"] for r in measure(trained, make_task())}
    form, questions = form_for(trained), load(make_task().folder)
    bos = len(form.tokens.prefix)

    def expected(question) -> int:
        others = form.embedded(question.documents)[1:]
        again = sum(min(FIRST.tokens, len(ids) - bos) for ids in others)
        return again + len(form.tail(question.text, question.documents))

    read = fmean(map(expected, questions))
    assert found["small (cached)"] == found["small (cached causal)"] == read
    assert found["small (cached)"] < found["small (fresh)"]


def test_the_same_figures_come_again(trained, make_task):
    one, other = (measure(trained, make_task()) for _ in range(2))
    assert [(r.task, r.items, r.details["f1"]) for r in one] == [
        (r.task, r.items, r.details["f1"]) for r in other
    ]


def test_a_model_without_a_head_is_refused(make_model, make_task):
    with pytest.raises(ModeError, match="mode='unified'"):
        measure(make_model(mode="embedding"), make_task())


def test_a_bad_row_is_named(trained, make_task):
    with pytest.raises(InputError, match=r"test.jsonl:4: broken JSON"):
        measure(trained, make_task(lines=["{"]), skip_bad_rows=False)
    result, *_ = measure(trained, make_task(lines=["{"]))
    assert result.rows_skipped == 1
    assert "test.jsonl:4: broken JSON" in result.skip_reasons[0]


def test_only_the_settings_asked_for_are_measured(trained, make_task):
    assert settings_of(measure(trained, make_task(), settings=["fresh", "oracle"])) == [
        "oracle",
        "fresh",
    ]
    with pytest.raises(InputError, match="settings='stale' is unknown"):
        measure(trained, make_task(), settings=["stale"])


def test_a_setting_that_does_not_fit_the_model_is_left_out_and_named(make_model, make_task, caplog):
    """The second question's document is longer than the model takes."""
    long = ROWS[1] | {"documents": [f"{OTHERS[1]} " * 60, OTHERS[2]]}
    task = make_task([ROWS[0], long, ROWS[2]])
    found = settings_of(measure(make_model(max_position_embeddings=300), task))
    assert found == ["no context", "shuffled"]
    assert "small (cached): left out, as" in caplog.text
    assert "test.jsonl:2: the question and its documents have" in caplog.text


def test_where_no_setting_fits_the_reasons_are_told(make_model, make_task):
    with pytest.raises(InputError, match=r"small: no setting is left .*fresh: .*test.jsonl:1"):
        measure(make_model(max_position_embeddings=40), make_task())


def test_a_setting_that_cannot_be_asked_for_is_an_error(untrained, make_task):
    with pytest.raises(InputError, match="no setting is left of cached; the model cannot"):
        measure(untrained, make_task(), settings=["cached"])


SAID = ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("setting", ["fresh", "cached"])
def test_out_of_memory_halves_and_goes_on(trained, make_task, monkeypatch, said, setting):
    questions, whole = load(make_task().folder), run.replies
    expected = [reply.ids for reply in answers_of(trained, questions, setting)]
    sizes = []

    def small(lm, readings, **more):
        sizes.append(len(readings))
        if len(readings) > 1:
            raise RuntimeError(said)
        return whole(lm, readings, **more)

    monkeypatch.setattr(run, "replies", small)
    assert [reply.ids for reply in answers_of(trained, questions, setting)] == expected
    assert sizes == [3, 1, 1, 1]


def test_blocks_that_do_not_fit_the_memory_together_are_made_for_fewer_questions(
    trained, make_task, monkeypatch
):
    questions, of = load(make_task().folder), BlockCache.of
    expected = [reply.ids for reply in answers_of(trained, questions, "cached")]
    first = []

    def failing_once(self, documents):
        if len(first) == 1:
            first.append("failed")
            raise RuntimeError("CUDA out of memory")
        first.append("read")
        return of(self, documents)

    monkeypatch.setattr(BlockCache, "of", failing_once)
    assert [reply.ids for reply in answers_of(trained, questions, "cached")] == expected
    assert first == ["read", "failed", "read", "read", "read"]


def test_one_row_that_is_too_much_leaves_its_setting_out(trained, make_task, monkeypatch, caplog):
    whole = run.replies

    def small(lm, readings, **more):
        if any(len(reading.ids) > 60 for reading in readings):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(lm, readings, **more)

    monkeypatch.setattr(run, "replies", small)
    found = settings_of(measure(trained, make_task(), settings=["no context", "fresh"]))
    assert found == ["no context"]
    assert "small (fresh): left out, as one row alone is too much: CUDA" in caplog.text


def test_what_is_no_lack_of_memory_is_raised(trained, make_task, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(run, "replies", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(trained, make_task())
