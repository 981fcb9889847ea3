"""The shared tier of one store: blocks fetched from and shipped to storage of several machines.

Storage that fails is left alone for a minute and never fails an answer: its blocks are computed. A
broken or foreign object is never used, and replaced when the block has been computed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from gritlm.errors import first_line
from gritlm.printable import excerpt
from gritlm.rag.kvstore.errors import DamagedRecordError
from gritlm.rag.kvstore.record import RecordHeader
from gritlm.rag.kvstore.shared import shared_record
from gritlm.rag.kvstore.shared.fetch_costs import FetchCosts
from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks

if TYPE_CHECKING:
    from gritlm.rag.identity import ModelIdentity

log = logging.getLogger(__name__)

PAUSE_S = 60.0  # without requests to storage that failed
_THREADS = 8
_MOST_WAITING = 32  # shipped blocks in memory; further ones of answers are left out

_T = TypeVar("_T")


class SharedTier:
    """Blocks of one model on shared storage. Safe to use from several threads.

    Args:
        shared: the storage.
        maker: identity of the model.
        storage: number format of the blocks.
        writes: whether blocks are shipped and deleted.

    Attributes:
        costs: measured costs of fetching and computing blocks.
    """

    def __init__(
        self, shared: SharedBlocks, maker: ModelIdentity, storage: str, *, writes: bool
    ) -> None:
        self.costs = FetchCosts(maker.kv_bytes_per_token, always=shared.always)
        self._objects = shared.objects
        self._maker = maker
        self._storage = storage
        self._writes = writes
        self._paused_until = 0.0
        self._has_warned = False
        self._is_ready = False
        self._damaged: set[bytes] = set()
        self._shipping: dict[bytes, Future[bool]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="shared-blocks")
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Address of the storage without credentials."""
        return self._objects.url

    def fetch(self, key: bytes, tokens: int | None) -> tuple[RecordHeader, Tensor] | None:
        """Return header and payload (L, B) of a block; None if it is missing, broken or not worth
        fetching, or the storage cannot be reached.

        Args:
            key: key of the block.
            tokens: its tokens; None fetches it at any cost.
        """
        if tokens is not None and not self.costs.allows_fetch(tokens):
            return None
        return self._reach(lambda: self._fetch(key))

    @property
    def is_shared(self) -> bool:
        """True: see :class:`KnownBlocks`."""
        return True

    def obtain(self, key: bytes, tokens: int) -> bool:
        """Return whether a block is in the storage and worth fetching there; it is not read.

        Args:
            key: key of the block.
            tokens: its tokens.
        """
        name = shared_record.object_name(self._maker, key)
        return self.costs.is_worth(tokens) and bool(
            self._reach(lambda: self._ready() and self._objects.size(name))
        )

    def measure_prefill(self, tokens: int, seconds: float) -> None:
        """Note the time to compute a block.

        Args:
            tokens: tokens of the block.
            seconds: time of the pass.
        """
        self.costs.measure_prefill(tokens, seconds)

    def ship(self, header: RecordHeader, payload: memoryview, *, wait: bool) -> Future[bool] | None:
        """Write a block in the background, if it is worth fetching for others.

        Args:
            header: header of its record.
            payload: its bytes.
            wait: wait while many blocks are being written; leave this one out otherwise.

        Returns:
            Whether the block is there, when that is known; None for a block that is left out.
        """
        tokens = len(header.token_ids)
        self.costs.measure_size(tokens, header.payload)
        if not self._writes or not self.costs.is_worth(tokens):
            return None
        with self._lock:
            self._shipping = {key: each for key, each in self._shipping.items() if not each.done()}
            is_busy = len(self._shipping) >= _MOST_WAITING
            oldest = next(iter(self._shipping.values())) if is_busy else None
        if oldest is not None and not wait:
            return None
        if oldest is not None:
            oldest.result()
        written = self._pool.submit(self._ship, header, payload)
        with self._lock:
            self._shipping[header.key] = written
        return written

    def delete(self, keys: Sequence[bytes]) -> bool:
        """Delete blocks and return whether that succeeded.

        A block is deleted for all workspaces: one that has an equal passage computes it again.

        Args:
            keys: keys of blocks, which may be missing.
        """
        if not keys:
            return True
        with self._lock:
            written = [self._shipping[key] for key in keys if key in self._shipping]
        wait_for(written)  # or an object could appear after it was deleted

        def delete_all() -> bool:
            names = [shared_record.object_name(self._maker, key) for key in keys]
            list(self._pool.map(self._objects.delete, names))
            return True

        return self._reach(delete_all) is not None

    def close(self) -> None:
        """Wait for the blocks that are being written."""
        self._pool.shutdown()

    def _fetch(self, key: bytes) -> tuple[RecordHeader, Tensor] | None:
        if not self._ready():
            return None
        started = perf_counter()
        content = self._objects.read(shared_record.object_name(self._maker, key))
        if content is None:
            self.costs.measure_request(perf_counter() - started)
            return None
        seconds = perf_counter() - started
        try:
            found = shared_record.unpack(content, key, self._maker, self._storage)
        except DamagedRecordError as error:
            self._damaged.add(key)
            log.warning(
                "%s: block %s is not used and computed again: %s",
                self.url,
                key.hex()[:16],
                error,
            )
            return None
        self._damaged.discard(key)
        self.costs.measure_fetch(len(found[0].token_ids), len(content), seconds)
        return found

    def _ship(self, header: RecordHeader, payload: memoryview) -> bool:
        """Write a block that is not there yet, and return whether it is there."""
        return self._reach(lambda: self._write(header, payload)) or False

    def _write(self, header: RecordHeader, payload: memoryview) -> bool:
        if not self._ready():
            return False
        name = shared_record.object_name(self._maker, header.key)
        is_whole = self._objects.size(name) == shared_record.object_nbytes(header)
        if header.key in self._damaged or not is_whole:
            self._objects.write(name, shared_record.pack(header, payload))
            self._damaged.discard(header.key)
            if self.costs.fetch_seconds(1) is None:
                self._fetch(header.key)  # the first one is read again, which measures the storage
        return True

    def _ready(self) -> bool:
        """Compare the manifest of the model's blocks; write it if it is missing.

        Returns:
            Whether there are blocks of this model, or there may be.
        """
        if self._is_ready:
            return True
        name = shared_record.manifest_name(self._maker)
        started = perf_counter()
        content = self._objects.read(name)
        self.costs.measure_request(perf_counter() - started)
        if content is None and not self._writes:
            self._warn(f"{self.url} holds no blocks of {excerpt(self._maker.name)}")
            return False
        if content is None:
            self._objects.write(name, shared_record.manifest(self._maker))
        elif not shared_record.is_manifest(content, self._maker):
            self._warn(
                f"{self.url}/{name} is broken or names another model; the blocks there are not "
                "used. Delete the folder of this file, or use another address"
            )
            return False
        self._is_ready = True
        return True

    def _reach(self, action: Callable[[], _T]) -> _T | None:
        """Return the result of an action on the storage; None if that fails or is paused."""
        if monotonic() < self._paused_until:
            return None
        try:
            return action()
        except OSError as error:
            self._paused_until = monotonic() + PAUSE_S
            self._warn(
                f"shared blocks are not used for now, missing ones are computed: "
                f"{excerpt(first_line(error), 300)}"
            )
            return None

    def _warn(self, message: str) -> None:
        """Log a warning, the first time only: the reason stays the same for hours."""
        log.log(logging.DEBUG if self._has_warned else logging.WARNING, "%s", message)
        self._has_warned = True
