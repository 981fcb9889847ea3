"""LangChain's standard tests of embeddings, chat models and retrievers, on a tiny model.

``tests/integrations/test_langchain_standard.py`` runs them with ``pytest.ini`` of this folder.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from langchain_tests.integration_tests import (
    ChatModelIntegrationTests,
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
)
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from gritlm import GritLM
from gritlm.integrations.langchain import ChatGritLM, GritLMEmbeddings, GritLMRetriever
from gritlm.rag import RagEngine
from tests import tiny
from tests.rag.conftest import QUESTION, TEXTS

LIMITS = {"temperature": 0, "max_tokens": 20, "stop": []}  # no network: no timeout, no key


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="gritlm-standard-"))


@cache
def grit() -> GritLM:
    made = tiny.model(max_position_embeddings=1024)
    with torch.no_grad():
        made.lm_head.weight[made.config.eos_token_id] = 0  # no answer is empty
    made.save_pretrained(folder() / "model")
    tiny.tokenizer().save_pretrained(folder() / "model")
    return GritLM(folder() / "model", dtype="float32", device="cpu")


@cache
def engine() -> RagEngine:
    opened = RagEngine.open(folder() / "store", grit())
    opened.add([{"text": text} for text in TEXTS])
    return opened


class Embedding:
    embeddings_class = GritLMEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": grit()}


class TestEmbeddingsUnit(Embedding, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(Embedding, EmbeddingsIntegrationTests):
    pass


class Chat:
    chat_model_class = ChatGritLM
    standard_chat_model_params = LIMITS

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return str(grit().source)

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": grit()}


class TestChatUnit(Chat, ChatModelUnitTests):
    pass


class TestChatIntegration(Chat, ChatModelIntegrationTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    retriever_constructor = GritLMRetriever
    retriever_query_example = QUESTION

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": engine()}
