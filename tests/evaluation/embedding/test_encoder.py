"""GritLM as mteb sees it."""

from __future__ import annotations

from typing import Any

import mteb
import numpy as np
import pytest
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from mteb.types import PromptType

from gritlm.evaluation.embedding import local
from gritlm.evaluation.embedding.encoder import GritLMEncoder, mteb_encoder
from gritlm.evaluation.embedding.instructions import TaskInstructions
from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.prompts import gritlm_instruction
from tests import tiny
from tests.evaluation.embedding import folders

TEXTS = tiny.SENTENCES[:3]


def encoded(encoder: GritLMEncoder, texts: list[str], task: Any, side: PromptType | None) -> Any:
    return encoder.encode(
        [{"text": texts}],
        task_metadata=task.metadata,
        hf_split="test",
        hf_subset="default",
        prompt_type=side,
    )


def test_it_is_an_encoder_of_mteb_and_nothing_else(model):
    made = mteb_encoder(model)
    assert isinstance(made, EncoderProtocol)
    assert not isinstance(made, CrossEncoderProtocol | SearchProtocol)


@pytest.mark.parametrize("side", [PromptType.query, None])
def test_queries_and_texts_without_a_side_are_read_with_the_instruction(model, side):
    task = mteb.get_task("SciFact")
    said = gritlm_instruction(task.metadata.prompt["query"])
    found = encoded(mteb_encoder(model), TEXTS, task, side)
    np.testing.assert_array_equal(found, model.encode(TEXTS, instruction=said))


def test_documents_are_read_with_the_bare_header(model):
    found = encoded(mteb_encoder(model), TEXTS, mteb.get_task("SciFact"), PromptType.document)
    np.testing.assert_array_equal(found, model.encode(TEXTS, instruction=gritlm_instruction()))


def test_where_both_sides_are_questions_both_get_the_instruction(model):
    task = mteb.get_task("AskUbuntuDupQuestions")
    query = encoded(mteb_encoder(model), TEXTS, task, PromptType.query)
    document = encoded(mteb_encoder(model), TEXTS, task, PromptType.document)
    np.testing.assert_array_equal(query, document)


def test_a_text_without_characters_is_read_as_a_full_stop(model):
    made = GritLMEncoder(model, TaskInstructions("Find"))
    blank, stop = encoded(made, ["", "."], mteb.get_task("SciFact"), None)
    np.testing.assert_array_equal(blank, stop)


def test_other_weights_or_settings_have_another_revision(model):
    def revision(seed: int, pooling: str) -> str | None:
        settings = ModelSettings(template="gritlm", pooling_method=pooling)
        made = GritLM.around(tiny.model(seed=seed), tiny.tokenizer(), settings)
        return mteb_encoder(made).mteb_model_meta.revision

    own = mteb_encoder(model).mteb_model_meta.revision
    assert own == revision(0, "mean")
    assert len({own, revision(1, "mean"), revision(0, "lasttoken")}) == 3


def test_plain_mteb_evaluates_it(model, tmp_path):
    task = local.make(folders.retrieval(tmp_path))
    found = mteb.evaluate(mteb_encoder(model), task, cache=None, show_progress_bar=False)
    assert 0 < found.task_results[0].get_score() <= 1
