"""Haystack: embedders, a retriever, a chat generator, and answers from cached state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm.integrations import frameworks

if TYPE_CHECKING:
    from gritlm.integrations.haystack.haystack_chat import GritLMChatGenerator
    from gritlm.integrations.haystack.haystack_documents import (
        GritLMAnswerGenerator,
        GritLMDocumentRetriever,
    )
    from gritlm.integrations.haystack.haystack_embedders import (
        GritLMDocumentEmbedder,
        GritLMTextEmbedder,
    )

__all__ = [
    "GritLMAnswerGenerator",
    "GritLMChatGenerator",
    "GritLMDocumentEmbedder",
    "GritLMDocumentRetriever",
    "GritLMTextEmbedder",
]

_PLACE = "gritlm.integrations.haystack"
_HOMES = {
    "GritLMAnswerGenerator": f"{_PLACE}.haystack_documents",
    "GritLMChatGenerator": f"{_PLACE}.haystack_chat",
    "GritLMDocumentEmbedder": f"{_PLACE}.haystack_embedders",
    "GritLMDocumentRetriever": f"{_PLACE}.haystack_documents",
    "GritLMTextEmbedder": f"{_PLACE}.haystack_embedders",
}

__getattr__, __dir__ = frameworks.names(__name__, _HOMES, library="haystack", extra="haystack")
