from __future__ import annotations

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.evaluation.generation.chat import ChatTexts
from gritlm.evaluation.generation.harness import GritLMHarness
from gritlm.lm.chat import chat_ids
from gritlm.lm.settings import Settings
from gritlm.lm.tokens import SegmentTokenizer
from tests import tiny

from .conftest import asked

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who has a ball?"},
    {"role": "assistant", "content": "Ann"},
    {"role": "user", "content": "Who has a car? "},
]


@pytest.fixture(scope="module", params=["gritlm", "tokenizer"])
def chatting(request) -> GritLM:
    return GritLM.around(tiny.model(), tiny.tokenizer(), Settings(template=request.param))


def test_an_answer_in_a_task_is_the_answer_of_chat():
    model = GritLM.around(tiny.model(), tiny.tokenizer(), Settings(template="gritlm"))
    harness = GritLMHarness(model)
    text = harness.apply_chat_template(TALK)
    (found,) = harness.generate_until(asked("generate_until", [(text, {"max_gen_toks": 8})]))
    assert found == model.chat(TALK, max_new_tokens=8)


def test_our_format_is_tokenised_in_its_segments():
    model = GritLM.around(tiny.model(), tiny.tokenizer(), Settings(template="gritlm"))
    harness = GritLMHarness(model)
    text = harness.apply_chat_template(TALK)
    ids, behind = harness._encode_pair(text, "Bob")
    assert ids == chat_ids(SegmentTokenizer(model.tokenizer), TALK, template="gritlm")
    assert model.tokenizer.decode(behind) == "Bob"


def test_the_last_message_can_be_gone_on_with(chatting):
    harness = GritLMHarness(chatting)
    messages = [*TALK, {"role": "assistant", "content": "It is Bob"}]
    text = harness.apply_chat_template(messages, add_generation_prompt=False)
    assert text.endswith("<|assistant|>\nIt is Bob")


def test_a_template_without_system_messages_leaves_them_out(caplog):
    tokenizer = tiny.tokenizer()
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refuse + str(tokenizer.chat_template)
    model = GritLM.around(tiny.model(), tokenizer, Settings(template="tokenizer"))
    text = GritLMHarness(model).apply_chat_template(TALK)
    assert "Be brief." not in text
    assert "takes no system message" in caplog.text


def test_the_template_is_known_for_records(chatting):
    harness = GritLMHarness(chatting)
    assert "<|assistant|>" in str(harness.chat_template(True))
    assert harness.chat_template(False) is None


TRIMMED = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}\n{% endfor %}"


@pytest.mark.parametrize("template", [None, TRIMMED])
@pytest.mark.parametrize("last", ["It is Bob", "It is ", " a\n", "end "])
def test_a_template_writes_the_text_of_transformers(template: str | None, last: str):
    tokenizer = tiny.tokenizer()
    if template is not None:
        tokenizer.chat_template = template
    texts = ChatTexts(GritLM.around(tiny.model(), tokenizer, Settings(template="tokenizer")))
    expected = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert texts.text(TALK, answer=True) == expected
    continued = [*TALK, {"role": "assistant", "content": last}]
    expected = tokenizer.apply_chat_template(continued, tokenize=False, continue_final_message=True)
    assert texts.text(continued, answer=False) == expected


def test_a_template_that_does_not_end_is_refused():
    tokenizer = tiny.tokenizer()
    long = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = GritLM.around(tiny.model(), tokenizer, Settings(template="tokenizer"))
    tokenizer.chat_template = long + str(tokenizer.chat_template)
    with pytest.raises(InputError, match="takes more than 1,000,000 steps"):
        GritLMHarness(model).apply_chat_template(TALK)
