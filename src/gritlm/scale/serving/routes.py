"""Route of a request to a replica: its conversation, its store, and whether it writes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from gritlm.serve.http import paths
from gritlm.serve.stores import DEFAULT, RAG_SUFFIX

_CHATS = (paths.CHAT, paths.RESPONSES, paths.MESSAGES, paths.OLLAMA_CHAT)
_PROMPTS = (paths.COMPLETIONS, paths.OLLAMA_GENERATE)
_PROMPT_CHARS = 1024  # of a prompt: longer ones that begin alike share a replica
_TURNS = ("system", "developer")


@dataclass(frozen=True)
class Route:
    """Properties of a request that decide which replica gets it.

    Attributes:
        conversation: hash of the beginning of a conversation or a prompt; None for other requests.
        store: name of the document store that the request reads or writes; None for none.
        writes: whether it changes the documents of the store.
    """

    conversation: str | None = None
    store: str | None = None
    writes: bool = False


def route_of(scope: Mapping[str, Any], body: bytes, stores: tuple[str, ...]) -> Route:
    """Return the route of a request; a request that cannot be parsed goes to any replica.

    Args:
        scope: ASGI scope of the request.
        body: its body.
        stores: names of the document stores.
    """
    path: str = scope["path"]
    if path not in (*_CHATS, *_PROMPTS) and not path.startswith("/v1/rag/"):
        return Route()
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    fields = _fields(body)
    if path.startswith("/v1/rag/"):
        named = _text(fields.get("store")) or next(iter(query.get("store", [])), None)
        writes = path.startswith(paths.DOCUMENTS) and scope["method"] not in ("GET", "HEAD")
        return Route(store=_store(named, stores), writes=writes)
    model = _text(fields.get("model")) or ""
    _, is_rag, suffix = model.partition(RAG_SUFFIX)
    if is_rag:
        return Route(store=_store(suffix.removeprefix(":") or None, stores))
    return Route(conversation=_conversation(path, fields))


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _store(named: str | None, stores: tuple[str, ...]) -> str | None:
    """Return the store of a request: the named one, the only one, or ``default``."""
    if named is not None:
        return named if named in stores else None
    if len(stores) == 1:
        return stores[0]
    return DEFAULT if DEFAULT in stores else None


def _conversation(path: str, fields: Mapping[str, Any]) -> str | None:
    """Return the hash of the messages up to the first one of the user, which later turns repeat."""
    if path in _PROMPTS:
        prompt = fields.get("prompt")
        begin: Any = prompt[:_PROMPT_CHARS] if isinstance(prompt, str | list) else None
    else:
        turns = fields.get("input") if path == paths.RESPONSES else fields.get("messages")
        begin = _beginning(turns) if isinstance(turns, list) else turns
    if not begin:
        return None
    head = [fields.get("model"), fields.get("system"), fields.get("instructions"), begin]
    return hashlib.blake2b(orjson.dumps(head), digest_size=16).hexdigest()


def _beginning(turns: list[Any]) -> list[Any]:
    for number, turn in enumerate(turns):
        if not (isinstance(turn, dict) and turn.get("role") in _TURNS):
            return turns[: number + 1]
    return turns


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
