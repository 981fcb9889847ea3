"""Document stores of the server: their names and folders, and the choice of one by a request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.rag import needs
from gritlm.rag.kvstore.errors import OtherModelError
from gritlm.serve.access import ACCESS, SEARCH
from gritlm.serve.errors import no_store, no_store_for_key, no_store_named, several_stores

if TYPE_CHECKING:
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks

RAG_SUFFIX = ":rag"  # of model names whose chats are answered from documents
DEFAULT = "default"  # name of a store that is given by its folder alone
MEMORY_BYTES = 512 * 2**20  # of the blocks that all stores keep in memory
MIN_MEMORY_BYTES = 32 * 2**20  # of each store
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAG = "latest"  # a tag of model names for Ollama's clients


@dataclass(frozen=True)
class StoreAt:
    """Location of a document store.

    Attributes:
        folder: workspace of the store.
        read_only: whether documents can only be searched; any number of servers may share a store
            that way.
        name: name of the store in requests.
        index: address of the passages of a new store; None for LanceDB in its folder.
        shared_blocks: storage of KV blocks that other stores and machines share; None for none.

    Raises:
        InputError: for a name that requests cannot use.
    """

    folder: Path
    read_only: bool = False
    name: str = DEFAULT
    index: str | None = None
    shared_blocks: SharedBlocks | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == _TAG:
            raise InputError(
                f"store name {self.name[:80]!r}; expected 1 to 64 letters, digits and ._- that "
                f"begin with a letter or a digit, and not {_TAG!r}"
            )

    @classmethod
    def parse(cls, text: str, *, read_only: bool = False) -> StoreAt:
        """Return the store of an option: ``name=folder``, or a folder.

        A folder whose name has ``=`` is written with its path, as ``./a=b``.
        """
        name, sign, folder = text.partition("=")
        if not sign or not _NAME.fullmatch(name):
            return cls(Path(text), read_only)
        if not folder:
            raise InputError(f"--store {text}: the folder is missing; expected name=folder")
        return cls(Path(folder), read_only, name)


def require_distinct(stores: Sequence[StoreAt]) -> None:
    """Require that every store has a name, a folder and an index of its own.

    Raises:
        InputError: for the first two stores that share one of them.
        MissingExtraError: without the libraries of stores.
    """
    if stores:
        needs.require()
    names: set[str] = set()
    folders: dict[str, str] = {}
    for store in stores:
        if store.name in names:
            raise InputError(
                f"two stores have the name {store.name!r}; give each one its own: "
                "--store name=folder"
            )
        names.add(store.name)
        for place in _places(store.folder):
            if place in folders:
                raise InputError(
                    f"the stores {folders[place]!r} and {store.name!r} are both in {place}; give "
                    "each one its own folder"
                )
            folders[place] = store.name


def _places(folder: Path) -> Iterator[str]:
    """Yield the folder of a store without links, and the address of an index outside of it."""
    from gritlm.rag import workspace

    yield os.path.normcase(folder.resolve())
    if workspace.exists(folder) and workspace.settings(folder).index is not None:
        address = workspace.address(folder)
        yield address.rstrip("/") if "://" in address else os.path.normcase(Path(address).resolve())


def open_engines(stores: Sequence[StoreAt], model: GritLM, *, longest: int) -> dict[str, RagEngine]:
    """Open the engines of stores, each of which locks its folder: all or none.

    Args:
        stores: the stores.
        model: the model. A store of one of its named adapters is opened with that.
        longest: most tokens of a prompt and its answer.

    Returns:
        The engines by the names of their stores, for the caller to close.

    Raises:
        InputError: for a store of another model, one that another process writes to, or two stores
            that share a name or a folder.
    """
    require_distinct(stores)
    with ExitStack() as stack:
        engines = {
            store.name: stack.enter_context(_open(store, model, longest, len(stores)))
            for store in stores
        }
        stack.pop_all()
        return engines


def _open(store: StoreAt, model: GritLM, longest: int, count: int) -> RagEngine:
    from gritlm.rag.engine import RagEngine

    model = _model_of(store, model)
    try:
        return RagEngine.open(
            store.folder,
            model,
            index=store.index,
            read_only=store.read_only,
            longest=longest,
            memory_bytes=max(MIN_MEMORY_BYTES, MEMORY_BYTES // count),
            shared_blocks=store.shared_blocks,
        )
    except OtherModelError as error:
        raise InputError(f"store {store.name!r}: {error}") from None


def _model_of(store: StoreAt, model: GritLM) -> GritLM:
    """Return the model that made a store, among a model and those with its named adapters.

    A new store is made by the adapter of its name, or else by the model itself; so is the store of
    another model, which is then refused.
    """
    from gritlm.rag import workspace

    named = store.name if store.name in model.adapters else None
    for adapter in (named, None, *model.adapters):
        if workspace.may_open(store.folder, model.with_adapter(adapter)):
            return model.with_adapter(adapter)
    return model.with_adapter(named)


class Stores:
    """The stores of a server, as the key of the current request sees them.

    Args:
        engines: engines by the names of their stores.
    """

    def __init__(self, engines: Mapping[str, RagEngine]) -> None:
        self.engines = dict(engines)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all stores."""
        return tuple(self.engines)

    @property
    def visible(self) -> tuple[str, ...]:
        """Names of the stores that the key of the current request may use."""
        access = ACCESS.get()
        return tuple(name for name in self.engines if access.sees(name))

    def of(self, model: GritLM | None) -> tuple[str, ...]:
        """Return the names of the visible stores of a model; None for all visible stores."""
        if model is None:
            return self.visible
        return tuple(name for name in self.visible if self.engines[name].model is model)

    def default(self, model: GritLM | None = None) -> str | None:
        """Return the store of a request that names none: the only one, or ``default``.

        Args:
            model: model whose stores are considered; None for all.
        """
        visible = self.of(model)
        if len(visible) == 1:
            return visible[0]
        return DEFAULT if DEFAULT in visible else None

    def model_suffixes(self, model: GritLM) -> tuple[str, ...]:
        """Return the ends of the names of a model whose chats are answered from a store.

        They are ``:rag`` and ``:rag:<store>``.
        """
        visible = self.of(model)
        if SEARCH not in ACCESS.get().rights:
            return ()
        plain = (RAG_SUFFIX,) if self.default(model) is not None else ()
        named = tuple(f"{RAG_SUFFIX}:{name}" for name in visible) if len(visible) > 1 else ()
        return plain + named

    def answers(self, name: str | None, model: GritLM) -> bool:
        """Return whether chats of the current request's key can be answered from a store.

        Args:
            name: name of the store; None for the default one.
            model: model of the chat.
        """
        chosen = self.default(model) if name is None else name
        return chosen in self.of(model) and SEARCH in ACCESS.get().rights

    def choose(self, requested: str | None, model: GritLM | None = None) -> str:
        """Return the name of the store of a request.

        Args:
            requested: the name in the request; None for a request without one.
            model: model whose stores are considered; None for all.

        Raises:
            ApiError: for a store that does not exist or that the key may not use, with the same
                message; or if the request has to name one of several stores.
        """
        visible = self.of(model)
        if not self.engines:
            raise no_store()
        if requested is not None:
            if requested not in visible:
                raise no_store_named(requested, visible)
            return requested
        if not visible:
            raise no_store_for_key()
        default = self.default(model)
        if default is None:
            raise several_stores(visible)
        return default
