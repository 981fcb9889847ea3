"""Writers of questions: the model that is adapted, or an endpoint of OpenAI's API."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.starting_model import StartingModel
from gritlm.errors import GritLMError, first_line, require_libraries
from gritlm.lm.chat import Message
from gritlm.train.data.collate import key

MAX_NEW_TOKENS = 48  # of a question
RETRIES = 5
TIMEOUT_S = 60.0
_TOGETHER = 8  # requests to an endpoint

_ASK = "Write a question that this text answers."
# Without a solved example small models write about the text instead of its content.
_EXAMPLES = (
    (
        "Panama Canal. The canal opened in 1914 and shortens the voyage from New York to San "
        "Francisco by some 12,600 kilometres.",
        "By how much does the Panama Canal shorten the voyage from New York to San Francisco?",
    ),
    (
        "Honey bees. A worker bee lives for about six weeks in summer, because the work outside of "
        "the hive wears out its wings.",
        "Why does a worker bee live for only six weeks in summer?",
    ),
    (
        "Plants take in carbon dioxide through small openings in their leaves, which are called "
        "stomata.",
        "Through which openings do leaves take in carbon dioxide?",
    ),
    (
        "Leases. A tenant may end the contract with three months' notice to the end of a month.",
        "How much notice must a tenant give to end the contract?",
    ),
)
# First words of questions. Left alone, small models ask little else than "What is ...?".
_OPENINGS = ("", "What are", "How")


class EndpointError(GritLMError):
    """Error of the endpoint that writes the questions, after all retries."""


class QuestionWriter(Protocol):
    """Writer of questions."""

    def questions(self, texts: Sequence[str]) -> list[str]:
        """Return one line for each text: a question that it answers."""
        ...


def messages(text: str) -> list[Message]:
    """Return the conversation that asks for a question on a text."""
    found: list[Message] = []
    for example, question in _EXAMPLES:
        found.append({"role": "user", "content": f"{example}\n\n{_ASK}"})
        found.append({"role": "assistant", "content": question})
    return [*found, {"role": "user", "content": f"{text}\n\n{_ASK}"}]


class OwnWriter:
    """The model that is adapted as a writer; texts are written in KV slots, many at a time.

    Args:
        model: the model.
    """

    def __init__(self, model: StartingModel) -> None:
        self._model = model

    def questions(self, texts: Sequence[str]) -> list[str]:
        """Return one line for each text: a question that it answers."""
        model = self._model.model
        openings = [_OPENINGS[key(text) % len(_OPENINGS)] for text in texts]
        begun = [
            model.tokenizer(opening, add_special_tokens=False)["input_ids"] for opening in openings
        ]
        prompts = [
            [*model.chat_ids(messages(text)), *ids] for text, ids in zip(texts, begun, strict=True)
        ]
        rest = self._model.texts(prompts, until=["\n"], max_new_tokens=MAX_NEW_TOKENS)
        return [opening + text for opening, text in zip(openings, rest, strict=True)]


class EndpointWriter:
    """An endpoint of OpenAI's API as a writer; its key is in ``OPENAI_API_KEY``.

    Args:
        address: base URL of the API.
        model: name of the model.
    """

    def __init__(self, address: str, model: str) -> None:
        require_libraries(("openai",), what="questions from an endpoint need", extra="adapt")
        from openai import OpenAI

        self._address = address
        self._model = model
        self._client = OpenAI(
            base_url=address,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=RETRIES,
            timeout=TIMEOUT_S,
        )

    def questions(self, texts: Sequence[str]) -> list[str]:
        """Return one line for each text: a question that it answers.

        Raises:
            EndpointError: if the endpoint fails after all retries.
        """
        with ThreadPoolExecutor(_TOGETHER) as pool:
            return list(pool.map(self._question, texts))

    def _question(self, text: str) -> str:
        from openai import OpenAIError

        conversation: Any = messages(text)
        try:
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=conversation,
                max_tokens=MAX_NEW_TOKENS,
                temperature=0,
                stop=["\n"],
            )
        except OpenAIError as error:
            raise EndpointError(
                f"{self._address} wrote no question: {first_line(error)}; check the address, the "
                "model and OPENAI_API_KEY, and give the same command again"
            ) from error
        return answer.choices[0].message.content or "" if answer.choices else ""


def writer_for(config: AdaptConfig, model: StartingModel) -> QuestionWriter:
    """Return the writer that the settings name.

    Raises:
        MissingExtraError: for an endpoint without the library ``openai``.
    """
    endpoint = config.endpoint
    return OwnWriter(model) if endpoint is None else EndpointWriter(*endpoint)
