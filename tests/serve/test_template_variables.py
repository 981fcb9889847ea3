"""Variables of the chat template: used where it has them, ignored by name elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from gritlm import GritLM
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.serve.config import ServerConfig
from tests import tiny
from tests.serve.conftest import Served, served

CHAT = "/v1/chat/completions"
TALK = [{"role": "user", "content": "Hello"}]
THINKS = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking|default(true) %} Cats think.{% endif %}{{ style }}"
)


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model whose chat template has two variables."""
    made: Path = tiny.folder(tmp_path_factory.mktemp("thinking"))
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.chat_template = THINKS
    tokenizer.save_pretrained(made)
    ModelSettings(template="tokenizer").save(made)
    with served(GritLM(made, dtype="float32", device="cpu"), ServerConfig(port=0)) as found:
        yield found


def prompt_of(server: Served, kwargs: dict[str, Any] | None) -> tuple[str, str | None]:
    """The text of a prompt, and the ignored fields."""
    body = {"messages": TALK, "chat_template_kwargs": kwargs}
    response = server.http.post("/tokenize", json=body)
    assert response.status_code == 200, response.text
    ids = {"tokens": response.json()["tokens"]}
    text = server.http.post("/detokenize", json=ids).json()["prompt"]
    return text, response.headers.get("x-gritlm-ignored")


def test_a_template_gets_the_variables_that_it_uses(thinking: Served):
    assert prompt_of(thinking, None) == ("Hello Cats think.", None)
    assert prompt_of(thinking, {"enable_thinking": False}) == ("Hello", None)
    assert prompt_of(thinking, {"style": " Be brief."}) == ("Hello Cats think. Be brief.", None)
    assert prompt_of(thinking, {"style": None, "mood": 1}) == (
        "Hello Cats think.",
        "chat_template_kwargs.mood",
    )


def test_a_chat_counts_the_tokens_of_its_own_prompt(thinking: Served):
    sizes = []
    for value in (True, False):
        found = thinking.openai.chat.completions.create(
            model="gritlm",
            messages=TALK,
            max_tokens=1,
            extra_body={"chat_template_kwargs": {"enable_thinking": value}},
        )
        sizes.append(found.usage.prompt_tokens)
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"messages": []}, "has 'messages', which the server sets"),
        ({"add_generation_prompt": False}, "has 'add_generation_prompt', which the server sets"),
        ({"style": ["</s>"]}, "has the special token '</s>'"),
        ({str(number): 1 for number in range(300)}, "300 fields; expected at most 256"),
        (5, "input should be a valid dictionary"),
    ],
)
def test_variables_that_would_break_the_prompt_are_refused(
    thinking: Served, kwargs: Any, message: str
):
    response = thinking.http.post(CHAT, json={"messages": TALK, "chat_template_kwargs": kwargs})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "chat_template_kwargs")
    assert message in error["message"]
