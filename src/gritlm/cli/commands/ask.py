"""``gritlm ask``: a question to a store."""

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
    """What is reused of what was read before."""

    none = "none"
    query = "query"
    doc = "doc"
    doc_query = "doc-query"
    query_doc = "query-doc"
    auto = "auto"


class BlockKindOption(StrEnum):
    """How documents were read when their blocks were made."""

    bidirectional = "bidirectional"
    causal = "causal"


class Again(StrEnum):
    """Which tokens of stored blocks are read again."""

    none = "none"
    first = "first"
    value = "value"
    question = "question"


@dataclass(frozen=True)
class AskSearchOptions:
    """How passages are found."""

    top_k: Annotated[int, typer.Option(min=1, help="Passages to answer from.")] = 3
    filter: Annotated[
        list[str] | None,
        typer.Option(
            help="Only passages with this metadata, NAME=VALUE; repeated: one of the values."
        ),
    ] = None
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Search by words, too.")] = False
    rerank: Annotated[
        int, typer.Option(min=0, help="Let the model order so many candidates itself.")
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
    question: Annotated[str, typer.Argument(help="What to answer.")],
    *,
    store: Annotated[Path, typer.Option(help="Folder that gritlm index made.")],
    mode: Annotated[
        Mode, typer.Option(help="What is reused; auto: what is fastest here.")
    ] = Mode.doc,
    blocks: Annotated[
        BlockKindOption, typer.Option(help="Kind of the documents' key/value blocks.")
    ] = BlockKindOption.bidirectional,
    recompute: Annotated[
        Again, typer.Option(help="Tokens of several documents that are read again.")
    ] = Again.first,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    trace: Annotated[
        bool, typer.Option("--trace", help="Tell tokens, bytes and milliseconds of each part.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer, sources and trace as one JSON object.")
    ] = False,
    search: AskSearchOptions,
    model: ModelOptions,
) -> None:
    """Answer from the passages of a store, most of it without reading them again."""
    from gritlm.rag import needs

    needs.require()
    from gritlm.lm.sampling import SamplingParams
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.options import AnswerOptions
    from gritlm.rag.reuse.recompute import Recompute

    again = None if recompute is Again.none else Recompute(recompute.value)
    options = AnswerOptions(
        top_k=search.top_k,
        filter=search.metadata(),
        hybrid=search.hybrid,
        rerank=search.rerank,
        mode=mode.value,
        blocks=blocks.value,
        recompute=again,
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
    """What a word may stand for: itself, and the number or truth value that it spells."""
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
