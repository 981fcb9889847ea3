"""What a model is asked is what training made, token for token."""

from __future__ import annotations

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.evaluation.rag.prompts import BRIEFLY, fitting, form_for
from gritlm.evaluation.rag.questions import load
from gritlm.lm.chat import chat_ids
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import CHAT_TEMPLATE
from gritlm.train.data import rag_samples
from gritlm.train.data.examples import RagExample
from tests import tiny
from tests.evaluation.rag.conftest import readings


def trained_ids(model, question, mode):
    """The prompt of a training sample, and the number of its tokens that no other block sees."""
    row = RagExample(question.text, question.documents, "red")
    form = rag_samples.SampleForm(
        mode, "bidirectional", embed_eos=model.settings.embed_eos, read_again=0
    )
    made = rag_samples.sample(
        SegmentTokenizer(model.tokenizer),
        row,
        form,
        documents=question.documents,
        max_length=10_000,
    )
    return made.ids[: made.trained[0][0]], made.unseen


@pytest.fixture(scope="module", params=["", "</s>"], ids=["plain", "with an end"])
def model(request, make_model):
    return make_model(ModelSettings(embed_eos=request.param))


def test_fresh_documents_are_read_as_in_training(model, make_task):
    questions = load(make_task().folder)
    made = list(readings(model, questions, "fresh"))
    expected = [trained_ids(model, question, "none")[0] for question in questions]
    assert [reading.ids for reading in made] == expected


@pytest.mark.parametrize("setting", ["cached", "cached causal"])
def test_cached_documents_are_read_as_in_training(model, make_task, setting):
    questions = load(make_task().folder)
    made = list(readings(model, questions, setting))
    for reading, question in zip(made, questions, strict=True):
        ids, unseen = trained_ids(model, question, "doc")
        read = [int(i) for block in reading.blocks for i in block.token_ids] + reading.ids
        assert read == [token for at, token in enumerate(ids) if at not in unseen]


def test_oracle_reads_the_gold_documents_alone(trained, make_task):
    questions, form = load(make_task().folder), form_for(trained)
    made = list(readings(trained, questions, "oracle"))
    assert [r.ids for r in made] == [form.over(q.text, q.gold) for q in questions]


def test_without_context_the_question_stands_alone_in_the_chat_format(make_model, make_task):
    model = make_model(ModelSettings(template="gritlm"))
    [question, *_] = load(make_task().folder)
    [reading, *_] = readings(model, [question], "no context")
    text = model.tokenizer.decode(reading.ids)
    assert text == f"<s><|user|>\n{question.text}\n\n{BRIEFLY}\n<|assistant|>\n"


def test_shuffled_reads_what_does_not_answer(trained, make_task):
    questions, form = load(make_task().folder), form_for(trained)
    made = list(readings(trained, questions, "shuffled"))
    # the documents of the second question answer neither the first nor the third
    assert made[0].ids == form.over(questions[0].text, questions[1].documents)
    assert made[2].ids == form.over(questions[2].text, questions[1].documents)


def test_an_untrained_model_is_asked_in_its_own_chat_format(untrained, make_task):
    form, question = form_for(untrained), load(make_task().folder)[0]
    text = "\n\n".join([*question.documents, question.text, BRIEFLY])
    assert form.own_chat
    expected = chat_ids(form.tokens, text, template="tokenizer")
    assert form.over(question.text, question.documents) == expected
    assert untrained.tokenizer.decode(form.alone("Who?")).count(f"Who?\n\n{BRIEFLY}") == 1


def test_a_model_of_others_is_asked_in_its_own_chat_format(foreign, make_task):
    form, question = form_for(foreign), load(make_task().folder)[0]
    assert form.own_chat
    text = "\n\n".join([*question.documents, question.text, BRIEFLY])
    assert form.over(question.text, question.documents) == foreign.chat_ids(text)


def test_a_model_of_others_that_was_saved_is_still_one(foreign, tmp_path):
    foreign.save_pretrained(tmp_path)
    model = GritLM(tmp_path, dtype="float32", device="cpu")
    assert model.settings == foreign.settings
    assert form_for(model).own_chat


def test_a_model_that_chats_in_our_format_and_says_nothing_is_asked_as_in_training(tmp_path):
    """As the published checkpoints."""
    folder = tiny.folder(tmp_path)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    model = GritLM(folder, dtype="float32", device="cpu")
    assert model.settings.trained_to_embed
    assert not form_for(model).own_chat


def test_without_context_trained_and_untrained_models_are_asked_for_the_same(trained, foreign):
    assert form_for(trained).alone("Who?") == form_for(foreign).alone("Who?")


def test_documents_that_do_not_answer_are_left_out_where_there_is_no_room(make_model, make_task):
    question = load(make_task().folder)[0]
    whole = form_for(make_model())
    size = len(whole.over(question.text, question.documents))
    form = form_for(make_model(max_position_embeddings=size + 31))
    first = next(text for text in question.documents if text not in question.gold)
    fewer = [text for text in question.documents if text != first]
    assert fitting(whole, question, question.documents, needed=question.gold) == [
        *question.documents
    ]
    assert fitting(form, question, question.documents, needed=question.gold) == fewer


def test_documents_of_another_question_are_cut_where_there_is_no_room(make_model, make_task):
    question, long = load(make_task().folder)[0], "Cats sleep most of the day. " * 200
    model = make_model(max_position_embeddings=256)
    form = form_for(model)
    [kept] = fitting(form, question, [question.gold[0], long], needed=())
    assert long.startswith(kept)
    size = len(form.over(question.text, [kept]))
    assert size <= form.room < len(form.over(question.text, [long[: len(kept) + 1]]))


def test_a_question_without_room_even_alone_is_named(make_model, make_task):
    [question, *_] = load(make_task().folder)
    model = make_model(max_position_embeddings=40)
    with pytest.raises(InputError, match=r"test.jsonl:1: the question has .* the model takes 8"):
        readings(model, [question], "no context")


def test_a_question_without_room_for_its_gold_document_is_named(make_model, make_task):
    question = load(make_task().folder)[0]
    form = form_for(make_model(max_position_embeddings=64))
    with pytest.raises(InputError, match=r"test.jsonl:1: .* tokens, the model takes 32 and 32"):
        fitting(form, question, question.documents, needed=question.gold)
