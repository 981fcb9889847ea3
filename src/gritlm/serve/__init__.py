"""The server: chats, embeddings, reranking and cached RAG from one model over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.serve.app import create_app
    from gritlm.serve.config import ServerConfig
    from gritlm.serve.engine.limits import Limits
    from gritlm.serve.server import serve
    from gritlm.serve.stores import StoreAt

__all__ = ["Limits", "ServerConfig", "StoreAt", "create_app", "serve"]

_HOMES = {
    "Limits": "gritlm.serve.engine.limits",
    "ServerConfig": "gritlm.serve.config",
    "StoreAt": "gritlm.serve.stores",
    "create_app": "gritlm.serve.app",
    "serve": "gritlm.serve.server",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
