"""Document stores that several replicas share: one writes to each, the others read it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.rag.kvstore.errors import StoreLockedError
from gritlm.serve.documents.handlers import DocumentApi
from gritlm.serve.media_decoding import media_rules
from gritlm.serve.service import Service
from gritlm.serve.stores import StoreAt, open_engines

if TYPE_CHECKING:
    from gritlm.rag.engine import RagEngine

log = logging.getLogger(__name__)

_CREATION_S = 60.0  # seconds in which the writer of a new store creates it
_RETRY_S = 0.5


class SharedStores:
    """The stores of a replica.

    A replica writes to every store whose lock it gets, and reads the others. When a writer ends,
    its lock is free, and the replica that takes it next writes.

    Args:
        stores: the stores.
        model: the model of the replica.
        longest: most tokens of a prompt and its answer.
    """

    def __init__(self, stores: Sequence[StoreAt], model: GritLM, *, longest: int) -> None:
        self._stores = {store.name: store for store in stores}
        self._model = model
        self._options = {"longest": longest}
        self._replaced: list[RagEngine] = []
        self.engines: dict[str, RagEngine] = {}
        with ExitStack() as stack:
            for store in stores:
                engine = self._open(store)
                stack.callback(engine.close)
                self.engines[store.name] = engine
            stack.pop_all()

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the stores that this replica writes to."""
        return tuple(name for name, each in self.engines.items() if not each.store.read_only)

    @property
    def sought(self) -> tuple[str, ...]:
        """Names of the stores that this replica reads, and would write to."""
        return tuple(
            name
            for name, store in self._stores.items()
            if not store.read_only and name not in self.written
        )

    def promote(self, service: Service, apis: dict[str, DocumentApi]) -> None:
        """Become the writer of each store that has none.

        Running requests end on the engine that they began with.

        Args:
            service: the service of the replica.
            apis: the handlers of the stores, by name.
        """
        for name in self.sought:
            try:
                engine = self._open_one(self._stores[name])
            except StoreLockedError:
                continue
            log.info("this replica now writes to the store %s", name)
            self._replaced.append(self.engines[name])
            self.engines[name] = service.stores.engines[name] = engine
            settings = service.settings
            apis[name] = DocumentApi(name, engine, settings.reader, media_rules(settings))
            service.on_close(apis[name].close)

    def close(self) -> None:
        """Close all engines."""
        for engine in (*self._replaced, *self.engines.values()):
            engine.close()

    def _open(self, store: StoreAt) -> RagEngine:
        """Open a store as its writer, or for reading once another replica has created it."""
        until = time.monotonic() + _CREATION_S
        while True:
            try:
                return self._open_one(store)
            except StoreLockedError:
                pass
            try:
                return self._open_one(replace(store, read_only=True))
            except InputError:
                if time.monotonic() > until:
                    raise
            time.sleep(_RETRY_S)

    def _open_one(self, store: StoreAt) -> RagEngine:
        return open_engines((store,), self._model, **self._options)[store.name]
