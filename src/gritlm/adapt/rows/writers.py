"""Writers of questions: the model that is adapted, or an endpoint of OpenAI's API."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from gritlm.adapt.config import AdaptConfig, WrittenKind
from gritlm.adapt.starting_model import StartingModel
from gritlm.errors import GritLMError, first_line, require_libraries
from gritlm.lm.chat import Message

MAX_NEW_TOKENS = 48  # of a question
RETRIES = 5
TIMEOUT_S = 60.0
_TOGETHER = 8  # requests to an endpoint

# First words of questions. Left alone, small models ask little else than "What is ...?".
OPENINGS: Mapping[WrittenKind, tuple[str, ...]] = {
    "factual": ("", "What are", "How", "Is", "Does"),
    "topic": ("", "What are", "What causes", "How is", "Is", "Can", "Does"),
}
_ASK: Mapping[WrittenKind, str] = {
    "factual": "Write a question that this text answers.",
    "topic": "Write a question about the subject that this text answers.",
}
# Without solved examples small models write about the text instead of its content.
_EXAMPLES: Mapping[WrittenKind, tuple[tuple[str, str], ...]] = {
    "factual": (
        (
            "Panama Canal. The canal opened in 1914 and shortens the voyage from New York to San "
            "Francisco by some 12,600 kilometres.",
            "By how much does the Panama Canal shorten the voyage from New York to San Francisco?",
        ),
        (
            "Honey bees. A worker bee lives for about six weeks in summer, because the work "
            "outside of the hive wears out its wings.",
            "Why does a worker bee live for only six weeks in summer?",
        ),
        (
            "Plants take in carbon dioxide through small openings in their leaves, which are "
            "called stomata.",
            "Through which openings do leaves take in carbon dioxide?",
        ),
        (
            "Leases. A tenant may end the contract with three months' notice to the end of a "
            "month.",
            "How much notice must a tenant give to end the contract?",
        ),
    ),
    "topic": (
        (
            "Panama Canal. The canal cuts across the Isthmus of Panama and connects the Atlantic "
            "with the Pacific Ocean. France began to dig in 1881 but stopped because of high costs "
            "and many deaths; the United States took over in 1904 and opened it ten years later.",
            "Who built the Panama Canal?",
        ),
        (
            "Honey bees. Bees leave the hive in a swarm when it becomes too small. The old queen "
            "takes half of the workers with her, and a young queen stays behind. Beekeepers "
            "prevent this by giving the bees more room in spring.",
            "Why do honey bees swarm?",
        ),
        (
            "Leases. A tenant may end the contract with three months' notice to the end of a "
            "month. The notice must be in writing and signed by all tenants.",
            "Can a tenant end a lease?",
        ),
        (
            "Rust. Iron rusts when it meets water and oxygen. Salt makes it faster. Paint, oil or "
            "a layer of zinc keep water away from the metal.",
            "How is rust prevented?",
        ),
    ),
}


@dataclass(frozen=True)
class QuestionRequest:
    """Request for a question.

    Attributes:
        text: the text that the question is about.
        kind: ``factual`` or ``topic``.
        opening: first words that a small model goes on from; may be empty.
    """

    text: str
    kind: WrittenKind = "factual"
    opening: str = ""


class EndpointError(GritLMError):
    """Error of the endpoint that writes the questions, after all retries."""


class QuestionWriter(Protocol):
    """Writer of questions."""

    def questions(self, requests: Sequence[QuestionRequest]) -> list[str]:
        """Return one line for each request: a question that its text answers."""
        ...


def messages(request: QuestionRequest) -> list[Message]:
    """Return the conversation that asks for a question on a text."""
    ask = _ASK[request.kind]
    found: list[Message] = []
    for example, question in _EXAMPLES[request.kind]:
        found.append({"role": "user", "content": f"{example}\n\n{ask}"})
        found.append({"role": "assistant", "content": question})
    return [*found, {"role": "user", "content": f"{request.text}\n\n{ask}"}]


class OwnWriter:
    """The model that is adapted as a writer; texts are written in KV slots, many at a time.

    Args:
        model: the model.
    """

    def __init__(self, model: StartingModel) -> None:
        self._model = model

    def questions(self, requests: Sequence[QuestionRequest]) -> list[str]:
        """Return one line for each request: a question that its text answers."""
        model = self._model.model
        prompts = [
            [
                *model.chat_ids(messages(request)),
                *model.tokenizer(request.opening, add_special_tokens=False)["input_ids"],
            ]
            for request in requests
        ]
        rest = self._model.texts(prompts, until=["\n"], max_new_tokens=MAX_NEW_TOKENS)
        return [request.opening + text for request, text in zip(requests, rest, strict=True)]


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

    def questions(self, requests: Sequence[QuestionRequest]) -> list[str]:
        """Return one line for each request: a question that its text answers.

        Raises:
            EndpointError: if the endpoint fails after all retries.
        """
        with ThreadPoolExecutor(_TOGETHER) as pool:
            return list(pool.map(self._question, requests))

    def _question(self, request: QuestionRequest) -> str:
        from openai import OpenAIError

        conversation: Any = messages(request)
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
