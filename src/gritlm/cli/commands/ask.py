"""``gritlm ask``: answers from a document store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import BlockKindOption, ModelOptions, SharedBlocksUri, connect_blocks
from gritlm.cli.output import json_line
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.rag.answer import Answer, Source
    from gritlm.rag.options import AnswerOptions
    from gritlm.rag.quote import Quote
    from gritlm.rag.types import Trace


class Mode(StrEnum):
    """Prompt order and the cached parts that are reused."""

    none = "none"
    query = "query"
    doc = "doc"
    doc_query = "doc-query"
    query_doc = "query-doc"


class FusionOption(StrEnum):
    """Use of several passages."""

    sequence = "sequence"
    token = "token"
    joint = "joint"


class RerankMethodOption(StrEnum):
    """Score by which the model reranks."""

    yes_no = "yes-no"
    likelihood = "likelihood"


class Again(StrEnum):
    """Choice of the cached tokens that are recomputed."""

    none = "none"
    first = "first"
    best = "best"


@dataclass(frozen=True)
class AskSearchOptions:
    """Search settings of ``gritlm ask``."""

    top_k: Annotated[
        int, typer.Option(min=1, help="Number of candidates: passages the answer may come from.")
    ] = 5
    filter: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only passages with this metadata, NAME=VALUE. Repeat it to accept "
            "several values."
        ),
    ] = None
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Also search by keywords.")] = False
    rerank: Annotated[
        int, typer.Option(min=0, help="Number of candidates that the model reranks; 0: none.")
    ] = 0
    rerank_method: Annotated[
        RerankMethodOption,
        typer.Option(
            help="likelihood: rank by the likelihood of the question after each passage; yes-no: "
            "ask the model whether each passage answers the question."
        ),
    ] = RerankMethodOption.likelihood

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


@dataclass(frozen=True)
class AnswerFlags:
    """Reuse of cached keys and values, and length of the answer."""

    fusion: Annotated[
        FusionOption | None,
        typer.Option(
            help="sequence: read each passage alone and answer from the best; token: mix all at "
            "every token; joint: all in one prompt. Default: sequence in mode doc, else joint."
        ),
    ] = None
    margin: Annotated[
        float | None,
        typer.Option(
            min=0, help="Read passages within this cosine of the best. Default: the model's."
        ),
    ] = None
    contrast: Annotated[
        float,
        typer.Option(min=0, help="Weight of the contrast to a prompt without passage, for token."),
    ] = 0.0
    mode: Annotated[Mode, typer.Option(help="Cached parts of the prompt that are reused.")] = (
        Mode.doc
    )
    blocks: Annotated[
        BlockKindOption | None,
        typer.Option(help="Attention of the cached documents. Default: the kind that is stored."),
    ] = None
    recompute: Annotated[
        Again,
        typer.Option(
            help="Cached tokens to recompute in a prompt of several documents: the first 16 of "
            "each (first), and the whole best one (best)."
        ),
    ] = Again.best
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of tokens to generate.")
    ] = 128
    quote: Annotated[
        bool,
        typer.Option(help="Quote the sentence of the passage that answers the question best."),
    ] = True
    shared_blocks: SharedBlocksUri = None


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    *,
    store: Annotated[Path, typer.Option(help="Folder of the store, created by gritlm index.")],
    answer: AnswerFlags,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace", help="Print tokens, bytes and milliseconds of each stage on stderr."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print answer, quote, sources and trace as JSON.")
    ] = False,
    search: AskSearchOptions,
    model: ModelOptions,
) -> None:
    """Answer a question from the passages of a store, reusing their cached keys and values."""
    from gritlm.rag import needs

    needs.require()
    from gritlm.rag.engine import RagEngine

    options = _options(search, answer)
    shared = connect_blocks(answer.shared_blocks)
    lm = model.load()
    with RagEngine.open(store, lm, read_only=True, shared_blocks=shared) as engine:
        stream = engine.stream(question, options)
        for piece in stream:
            if not as_json:
                terminal.write(piece)
        found = engine.quote(question, stream.answer) if answer.quote else None
        if as_json:
            terminal.write(json_line(_as_dict(stream.answer, found)))
            return
        quoted = "" if found is None else f'\n\n"{" ".join(found.text.split())}"'
        terminal.write(quoted + "\n\n" + "".join(map(_line, stream.sources)))
        if stream.trace.supported is False:
            logs.note(
                "the passages may not hold the answer: with them the question is hardly likelier"
            )
        if trace:
            _show(stream.trace)


def _options(search: AskSearchOptions, answer: AnswerFlags) -> AnswerOptions:
    from gritlm.lm.sampling import SamplingParams
    from gritlm.rag.options import AnswerOptions
    from gritlm.rag.reuse.recompute import BEST, FIRST

    recompute = {Again.none: None, Again.first: FIRST, Again.best: BEST}[answer.recompute]
    return AnswerOptions(
        top_k=search.top_k,
        filter=search.metadata(),
        hybrid=search.hybrid,
        rerank=search.rerank,
        rerank_method=search.rerank_method.value,
        fusion=None if answer.fusion is None else answer.fusion.value,
        margin=answer.margin,
        contrast=answer.contrast,
        mode=answer.mode.value,
        blocks=None if answer.blocks is None else answer.blocks.value,
        recompute=recompute,
        sampling=SamplingParams(answer.max_new_tokens),
    )


def _values(text: str) -> list[Any]:
    """Return the values that a filter matches: the text, and the number or boolean it spells."""
    try:
        found = json.loads(text)
    except ValueError:
        return [text]
    return [text, found] if isinstance(found, bool | int | float) else [text]


def _as_dict(answer: Answer, quote: Quote | None) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "quote": None if quote is None else asdict(quote),
        "sources": [asdict(source) for source in answer.sources],
        "trace": dict(answer.trace.as_dict()),
    }


def _line(source: Source) -> str:
    place = f"{source.document_id}:{source.start}-{source.end}"
    if source.page is not None:
        place = f"{source.document_id}, page {source.page}"
    if source.media is not None:
        label = source.media.label
        place = f"{source.document_id}, {label}" if label else source.document_id
    also = f"  (also in: {', '.join(source.also_in)})" if source.also_in else ""
    mark = "*" if source.used else " "
    shown = " ".join(source.text.split())[:80] if source.media is None else source.media.kind
    return f"{mark} {source.score:.3f}  {place}{also}  {shown}\n"


def _show(trace: Trace) -> None:
    scores = "".join(
        f"\n  {each['passage'][:32]:32} score {each['score']:.3f}: cosine {each['cosine']:.3f}, "
        f"likelihood {each['likelihood']:.3f}"
        for each in trace.scores
    )
    reasons = "".join(f"\n  {reason}" for reason in trace.reasons)
    parts = "".join(
        f"\n  {part['part'][:32]:32} {part['tokens']:6} tokens, {part['tier']}"
        for part in trace.parts
    )
    stages = "".join(f"\n  {name:11} {ms:9.1f} ms" for name, ms in trace.milliseconds.items())
    dropped = "".join(f"\n  {each[:32]:32} dropped: no room" for each in trace.dropped)
    read = ", ".join(f"{n / 1e6:.1f} MB from {tier}" for tier, n in trace.bytes_read.items())
    logs.note(
        f"fusion {trace.fusion}, mode {trace.mode}, {trace.blocks} blocks{reasons}{scores}\n"
        f"prefilled {trace.tokens_prefilled}, reused {trace.tokens_reused}, "
        f"computed {trace.tokens_computed}, recomputed {trace.tokens_recomputed}, "
        f"read of other passages {trace.tokens_selecting}, "
        f"generated {trace.tokens_generated} tokens; {read or 'nothing loaded'}{parts}{dropped}"
        f"{stages}"
    )
