"""``gritlm store``: look after what an engine has stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs

if TYPE_CHECKING:
    from gritlm.rag.store.store import KVStore

Place = Annotated[Path, typer.Argument(help="Folder that gritlm index made.", metavar="STORE")]

DAMAGED = 1


def stats(place: Place) -> None:
    """Tell what is stored: blocks, tokens, bytes, hits."""
    with _opened(place, read_only=True) as store:
        about: dict[str, Any] = vars(store.stats())
        sys.stdout.write("".join(f"{name}\t{value}\n" for name, value in about.items()))


def verify(place: Place) -> None:
    """Read everything and compare all checksums. Exit code 1: something is damaged."""
    with _opened(place, read_only=True) as store:
        damages = store.verify()
        for each in damages:
            logs.say("damaged", str(each))
        sys.stdout.write(f"{store.stats().blocks} blocks, {len(damages)} damaged\n")
    if damages:
        raise typer.Exit(DAMAGED)


def gc(place: Place) -> None:
    """Give back the bytes of blocks that are gone."""
    with _opened(place, read_only=False) as store:
        sys.stdout.write(f"{store.gc()} bytes given back\n")


def rebuild(place: Place) -> None:
    """Make the index of the blocks again, from the blocks themselves."""
    with _opened(place, read_only=False) as store:
        found = store.rebuild()
        for each in store.damages:
            logs.say("damaged", str(each))
        sys.stdout.write(f"{found} blocks found\n")


@contextmanager
def _opened(place: Path, *, read_only: bool) -> Iterator[KVStore]:
    from gritlm.rag import needs

    needs.require()
    from gritlm.rag import folder
    from gritlm.rag.store.store import KVStore

    if folder.exists(place):
        place = place / folder.BLOCKS  # else it may be the folder of the blocks itself
    with KVStore.open(place, None, read_only=read_only) as store:
        yield store
