"""``gritlm ask``: an answer from the documents of a store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import ModelOptions
from gritlm.cli.output import json_line
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.rag.answer import Answer, Source
    from gritlm.rag.trace import Trace


class Mode(StrEnum):
    """Part of the prompt that is reused."""

    none = "none"
    query = "query"
    doc = "doc"
    doc_query = "doc-query"
    query_doc = "query-doc"
    auto = "auto"


class BlockKindOption(StrEnum):
    """Kind of the documents' KV blocks."""

    bidirectional = "bidirectional"
    causal = "causal"


class Again(StrEnum):
    """Choice of the cached tokens that are recomputed."""

    none = "none"
    first = "first"
    value = "value"
    question = "question"


@dataclass(frozen=True)
class AskSearchOptions:
    """Options of the search for passages."""

    top_k: Annotated[int, typer.Option(min=1, help="Passages to answer from.")] = 3
    filter: Annotated[
        list[str] | None,
        typer.Option(
            help="Only passages with this metadata, NAME=VALUE; repeated: one of the values."
        ),
    ] = None
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Search by words too.")] = False
    rerank: Annotated[
        int,
        typer.Option(min=0, help="Number of candidates to rerank with the model; 0: no reranking."),
    ] = 0

    def metadata(self) -> dict[str, list[Any]] | None:
        """Return the filter by metadata; None without one.

        Raises:
            InputError: for a filter without a name or a value.
        """
        wanted: dict[str, list[Any]] = {}
        for each in self.filter or []:
            name, equals, value = each.partition("=")
            if not name or not equals:
                raise InputError(f"--filter {each!r}: expected NAME=VALUE, e.g. lang=en")
            wanted.setdefault(name, []).extend(_values(value))
        return wanted or None


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    *,
    store: Annotated[Path, typer.Option(help="Folder made by gritlm index.")],
    mode: Annotated[
        Mode,
        typer.Option(
            help="Part of the prompt that is reused; auto: the fastest mode on this machine."
        ),
    ] = Mode.doc,
    blocks: Annotated[
        BlockKindOption, typer.Option(help="Kind of the documents' key/value blocks.")
    ] = BlockKindOption.bidirectional,
    recompute: Annotated[
        Again, typer.Option(help="Cached tokens that are recomputed.")
    ] = Again.first,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 128,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show tokens, bytes and milliseconds of each part.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print answer, sources and trace as one JSON object.")
    ] = False,
    search: AskSearchOptions,
    model: ModelOptions,
) -> None:
    """Answer a question from the documents of a store, reusing their key/value state."""
    from gritlm.rag import needs

    needs.require()
    from gritlm.lm.sampling import SamplingParams
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.options import AnswerOptions
    from gritlm.rag.reuse.recompute import Recompute

    options = AnswerOptions(
        top_k=search.top_k,
        filter=search.metadata(),
        hybrid=search.hybrid,
        rerank=search.rerank,
        mode=mode.value,
        blocks=blocks.value,
        recompute=None if recompute is Again.none else Recompute(recompute.value),
        sampling=SamplingParams(max_new_tokens),
    )
    lm = model.load()
    with RagEngine.open(store, lm, read_only=True) as engine:
        stream = engine.stream(question, options)
        if as_json:
            terminal.write(json_line(_as_dict(stream.whole())))
            return
        for piece in stream:
            terminal.write(piece)
        terminal.write("\n\n" + "".join(map(_line, stream.sources)))
        if trace:
            _show(stream.trace)


def _values(text: str) -> list[Any]:
    """Return the values that a word may mean: the word, and the number or boolean it spells."""
    try:
        found = json.loads(text)
    except ValueError:
        return [text]
    return [text, found] if isinstance(found, bool | int | float) else [text]


def _as_dict(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "sources": [asdict(source) for source in answer.sources],
        "trace": dict(answer.trace.as_dict()),
    }


def _line(source: Source) -> str:
    place = f"{source.document_id}:{source.start}-{source.end}"
    return f"{source.score:.3f}  {place}  {' '.join(source.text.split())[:80]}\n"


def _show(trace: Trace) -> None:
    reasons = "".join(f"\n  {reason}" for reason in trace.reasons)
    parts = "".join(
        f"\n  {part['part'][:32]:32} {part['tokens']:6} tokens, {part['tier']}"
        for part in trace.parts
    )
    stages = "".join(f"\n  {name:11} {ms:9.1f} ms" for name, ms in trace.milliseconds.items())
    dropped = "".join(f"\n  {each[:32]:32} dropped: no room" for each in trace.dropped)
    read = ", ".join(f"{n / 1e6:.1f} MB from {tier}" for tier, n in trace.bytes_read.items())
    logs.note(
        f"mode {trace.mode}, {trace.blocks} blocks{reasons}\n"
        f"prefilled {trace.tokens_prefilled}, reused {trace.tokens_reused}, "
        f"computed {trace.tokens_computed}, read again {trace.tokens_recomputed} "
        f"(chosen by reading {trace.tokens_selecting}), "
        f"written {trace.tokens_generated} tokens; {read or 'nothing loaded'}{parts}{dropped}"
        f"{stages}"
    )
