"""The storage of a shared tier, as the store of KV blocks sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class BlockObjects(Protocol):
    """Named objects on storage that other machines reach too.

    An object appears as a whole. Each method raises OSError, in one line and without credentials,
    when the storage fails.
    """

    @property
    def url(self) -> str:
        """Address for messages, without credentials."""

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if it does not exist."""

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None if it does not exist."""

    def write(self, name: str, content: bytes) -> None:
        """Write an object, in place of an existing one."""

    def delete(self, name: str) -> None:
        """Delete an object; a missing one is no error."""


@dataclass(frozen=True)
class SharedBlocks:
    """Shared tier of a store; ``gritlm.scale.shared_blocks`` makes one from an address.

    Attributes:
        objects: the storage.
        always: whether every block is exchanged, also where prefill is estimated to be faster.
    """

    objects: BlockObjects
    always: bool = False


class KnownBlocks(Protocol):
    """Blocks that need not be computed: a store, or the shared tier alone."""

    @property
    def is_shared(self) -> bool:
        """Whether there is a shared tier."""

    def obtain(self, key: bytes, tokens: int) -> bool:
        """Return whether a block is there already.

        Args:
            key: key of the block.
            tokens: its tokens.
        """

    def measure_prefill(self, tokens: int, seconds: float) -> None:
        """Note the time to compute a block.

        Args:
            tokens: tokens of the block.
            seconds: time of the pass.
        """
