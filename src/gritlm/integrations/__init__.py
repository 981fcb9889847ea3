"""Adapters for LangChain, LlamaIndex and Haystack, and a client of documents on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm.integrations import frameworks

if TYPE_CHECKING:
    from gritlm.integrations.rag_client import RagClient

__all__ = ["RagClient"]

_HOMES = {"RagClient": "gritlm.integrations.rag_client"}

__getattr__, __dir__ = frameworks.names(__name__, _HOMES, library="httpx", extra="client")
