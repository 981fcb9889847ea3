"""Rights of an API key: the routes and the document stores that its requests may use."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from gritlm.serve.errors import no_right

CHAT = "chat"
EMBED = "embed"
SEARCH = "search"
WRITE = "write"
ADMIN = "admin"
RIGHTS = (CHAT, EMBED, SEARCH, WRITE, ADMIN)


@dataclass(frozen=True)
class Access:
    """Rights of the key of a request.

    Attributes:
        name: name of the key; empty for a request without one, and for keys without a name.
        rights: names of its rights.
        stores: names of the stores that it may use; None for all.
        owner: identity of the key. Requests reuse the keys and values of their own key alone.
    """

    name: str = ""
    rights: frozenset[str] = frozenset(RIGHTS)
    stores: frozenset[str] | None = None
    owner: str = field(default="", repr=False)

    @property
    def is_full(self) -> bool:
        """Whether the key has all rights on all stores."""
        return self.stores is None and self.rights.issuperset(RIGHTS)

    def sees(self, store: str) -> bool:
        """Return whether the key may use a store."""
        return self.stores is None or store in self.stores


ALL = Access()  # of requests on a server without keys

ACCESS: ContextVar[Access] = ContextVar("access of the request", default=ALL)


def require_right(right: str) -> None:
    """Require a right of the key of the current request.

    Raises:
        ApiError: without it; the message names it.
    """
    access = ACCESS.get()
    if right not in access.rights:
        raise no_right(access.name, right)
