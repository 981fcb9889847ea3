"""``gritlm store``: inspection and maintenance of a document store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import ModelOptions, SharedBlocksUri, connect_blocks
from gritlm.cli.output import json_line
from gritlm.errors import GritLMError, InputError

if TYPE_CHECKING:
    from gritlm.rag.index.index import IndexedDocument
    from gritlm.rag.kvstore.store import KVStore

Place = Annotated[Path, typer.Argument(help="Folder of the store.", metavar="STORE")]

DAMAGED = 1  # exit code of ``verify``
MAX_METADATA = 3  # maximum number of metadata entries in a line


def list_(
    place: Place,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per line, with all metadata.")
    ] = False,
) -> None:
    """List the documents: id, title, passages and metadata, separated by tabs, sorted by id."""
    from gritlm.rag import needs

    needs.require()
    from gritlm.rag import workspace

    found = workspace.documents(place)
    for each in found:
        terminal.write(json_line(_as_dict(each)) if as_json else _line(each))
    passages = sum(each.passages for each in found)
    logs.note(f"{len(found)} documents with {passages} passages")


def delete(
    place: Place,
    ids: Annotated[
        list[str],
        typer.Argument(help="Ids of documents, as gritlm store list prints them.", metavar="ID..."),
    ],
    *,
    shared_blocks: SharedBlocksUri = None,
    model: ModelOptions,
) -> None:
    """Delete documents and their KV blocks, which are found by the model that computed them.

    Blocks in shared storage are deleted with --shared-blocks, or when the store is next opened with
    it.

    Exits with code 2 if the store has none of the documents.
    """
    from gritlm.rag import needs

    needs.require()
    from gritlm.rag import workspace
    from gritlm.rag.engine import RagEngine

    known = {each.id: each.passages for each in workspace.documents(place)}
    found = [i for i in dict.fromkeys(ids) if i in known]
    unknown = set(ids) - known.keys()
    if not found:
        raise InputError(
            f"{place} has no document {ids[0]!r}{_suggestion(ids[0], known)}; "
            f"gritlm store list {place} lists the documents"
        )
    shared = connect_blocks(shared_blocks)
    with RagEngine.open(place, model.load(), shared_blocks=shared) as engine:
        engine.delete(found)
    terminal.write("".join(f"deleted {each}: {known[each]} passages\n" for each in found))
    for each in sorted(unknown):
        logs.write_message("unknown", f"{each!r}{_suggestion(each, known)}")


def stats(place: Place) -> None:
    """Print statistics of the KV blocks: count, tokens, bytes, hits."""
    with _open_blocks(place, read_only=True) as store:
        statistics: dict[str, Any] = vars(store.stats())
        terminal.write("".join(f"{name}\t{value}\n" for name, value in statistics.items()))


def verify(place: Place) -> None:
    """Verify all checksums. Exits with code 1 if something is damaged.

    A damaged KV block is removed, and the next gritlm index of the same documents stores it again;
    while another process writes to the store, it is only reported. A damaged passage is reported;
    gritlm store rebuild repairs it.
    """
    with _open_to_verify(place) as store:
        store.verify()
        damages = store.damages
        for each in damages:
            logs.write_message("damaged", str(each))
        terminal.write(f"{store.stats().blocks} blocks, {len(damages)} damaged\n")
    if _verify_passages(place) or damages:
        raise typer.Exit(DAMAGED)


def _verify_passages(place: Path) -> bool:
    """Print the damages of the passage table; return whether there are any."""
    from gritlm.rag import workspace

    if not workspace.exists(place):
        return False
    try:
        health = workspace.examine(place)
    except GritLMError as error:
        problems = [str(error)]
        passages = 0
    else:
        problems = health.problems
        passages = health.passages
    for each in problems:
        logs.write_message("damaged", each)
    terminal.write(f"{passages} passages, {len(problems)} problems\n")
    if problems:
        logs.write_message("to repair", f"gritlm store rebuild {place}")
    return bool(problems)


def gc(place: Place) -> None:
    """Free the disk space of deleted KV blocks, and of images and sounds without a passage."""
    with _open_blocks(place, read_only=False) as store:  # keeps other writers out
        from gritlm.rag import workspace

        freed = store.gc()
        if workspace.exists(place):
            freed += workspace.delete_orphaned_media(place)
        terminal.write(f"{freed} bytes given back\n")


def rebuild(place: Place, *, model: ModelOptions) -> None:
    """Rebuild the index of the KV blocks and the passage table from undamaged data.

    Damaged vectors are recomputed; the model is loaded only for them. A document whose text is
    lost is reported; add it again with gritlm index.
    """
    with _open_blocks(place, read_only=False) as store:
        from gritlm.rag import workspace
        from gritlm.rag.index import repair

        found = store.rebuild()
        for each in store.damages:
            logs.write_message("damaged", str(each))
        terminal.write(f"{found} blocks found\n")
        if workspace.exists(place):
            mended = workspace.rebuild(place, model.load)
            terminal.write("".join(f"{line}\n" for line in repair.summary(mended)))


def _suggestion(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _line(document: IndexedDocument) -> str:
    """Return a line of tab-separated fields, with the white space inside of them collapsed."""
    pairs = [f"{name}={value}" for name, value in document.metadata.items()]
    more = ["..."] if len(pairs) > MAX_METADATA else []
    metadata = ", ".join([*pairs[:MAX_METADATA], *more])
    rest = [" ".join(cell.split()) for cell in (document.title, str(document.passages), metadata)]
    return "\t".join([document.id, *rest]).rstrip("\t") + "\n"


def _as_dict(document: IndexedDocument) -> dict[str, Any]:
    return {
        "id": document.id,
        "title": document.title,
        "passages": document.passages,
        "metadata": dict(document.metadata),
    }


@contextmanager
def _open_to_verify(place: Path) -> Iterator[KVStore]:
    """Open the KV store for writing, or read-only with a message while it is locked."""
    with ExitStack() as stack:
        try:
            store = stack.enter_context(_open_blocks(place, read_only=False))
        except InputError as error:
            store = stack.enter_context(_open_blocks(place, read_only=True))
            logs.write_message("nothing is removed", str(error))
        yield store


@contextmanager
def _open_blocks(place: Path, *, read_only: bool) -> Iterator[KVStore]:
    """Open the KV store in the workspace, or the folder of a KV store itself."""
    from gritlm.rag import needs

    needs.require()
    from gritlm.rag import workspace
    from gritlm.rag.kvstore.store import KVStore

    if workspace.exists(place):
        place = place / workspace.BLOCKS
    with KVStore.open(place, None, read_only=read_only) as store:
        yield store
