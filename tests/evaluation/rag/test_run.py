"""The settings of a task, measured on tiny models."""

from __future__ import annotations

import logging
from statistics import fmean

import pytest

from gritlm.errors import InputError, ModeError
from gritlm.evaluation.rag import run
from gritlm.evaluation.rag.forms import form_for
from gritlm.evaluation.rag.rows import load
from gritlm.evaluation.rag.run import measure
from gritlm.evaluation.rag.settings import SETTINGS, readings
from gritlm.lm.settings import Settings
from tests.evaluation.rag.conftest import ROWS


def settings_of(results) -> list[str]:
    return [result.task.removeprefix("small (").removesuffix(")") for result in results]


def test_a_trained_model_is_asked_in_every_setting(trained, make_task):
    results = measure(trained, make_task())
    assert settings_of(results) == list(SETTINGS)
    for result in results:
        assert (result.half, result.kind, result.metric, result.count) == ("rag", "QA", "match", 3)
        assert result.score == pytest.approx(100 * fmean(result.items))
        assert set(result.details) == {
            "em", "f1", "tokens_prefilled", "first_token_ms", "own_chat_format",
        }  # fmt: skip
        assert result.details["own_chat_format"] == 0
        assert result.seconds > 0


def test_an_untrained_model_is_asked_afresh_and_it_is_said(untrained, make_task, caplog):
    with caplog.at_level(logging.INFO, logger="gritlm"):
        results = measure(untrained, make_task())
    assert settings_of(results) == ["no context", "oracle", "fresh", "shuffled"]
    assert {result.details["own_chat_format"] for result in results} == {1.0}
    assert "cached: left out, as the model was not trained to embed" in caplog.text
    assert "asked in its own chat format" in caplog.text


@pytest.mark.parametrize(
    ("settings", "mode", "reason"),
    [
        (Settings(attn="cccc"), "unified", "the model embeds causally"),
        (Settings(), "generative", "loaded with mode='generative'"),
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
    made = list(readings(trained, form_for(trained), questions, "fresh"))
    written = [trained.tokenizer.decode(reply.ids) for reply in run._asked(trained, made)]
    rows = [row | {"answers": [said]} for row, said in zip(ROWS, written, strict=True)]
    fresh = measure(trained, make_task([ROWS[0], *rows[1:]]))[SETTINGS.index("fresh")]
    assert fresh.items == (0.0, 1.0, 1.0)
    assert fresh.details["em"] == pytest.approx(200 / 3)


def test_one_causal_document_is_answered_as_a_fresh_one_token_for_token(trained, make_task):
    questions = load(
        make_task([row | {"documents": row["documents"][:1], "gold": 1} for row in ROWS]).folder
    )
    fresh, cached = (
        run._asked(trained, list(readings(trained, form_for(trained), questions, setting)))
        for setting in ("fresh", "cached causal")
    )
    assert [reply.ids for reply in cached] == [reply.ids for reply in fresh]
    assert any(reply.ids for reply in fresh)


def test_only_the_question_is_read_where_documents_are_cached(trained, make_task):
    found = {r.task: r.details["tokens_prefilled"] for r in measure(trained, make_task())}
    form, questions = form_for(trained), load(make_task().folder)
    tail = fmean(len(form.tail(q.text, q.documents)) for q in questions)
    assert found["small (cached)"] == found["small (cached causal)"] == tail
    assert found["small (cached)"] < found["small (oracle)"] < found["small (fresh)"]


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
        measure(trained, make_task(lines=["{"]))
