"""RagEngine: documents in, answers out; what was computed to find a passage answers from it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, overload

from gritlm.errors import InputError, choice
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.printable import excerpt
from gritlm.prompts import RAG_FORMS
from gritlm.rag import answer as answering
from gritlm.rag import workspace
from gritlm.rag.answer import Answer, AnswerStream, PrefilledPrompt, Source, Writing
from gritlm.rag.cooperative import Checkpoint, OnModel, paced
from gritlm.rag.cost import CostModel
from gritlm.rag.identity import maker_of
from gritlm.rag.index.index import Index, IndexedDocument
from gritlm.rag.index.lance import IndexFailedError
from gritlm.rag.ingest.file_ids import DocumentIds
from gritlm.rag.ingest.ingest import (
    AddResult,
    ChunkingOptions,
    DocumentInput,
    Indexer,
    check_cutting,
    forget,
    skipped_when_full,
)
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.plan import BlockKind, PromptAssembler, PromptPlan
from gritlm.rag.planner import Mode, Planner
from gritlm.rag.retrieve import Retriever, Search, Vector
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.trace import Trace
from gritlm.rag.types import Hit

KINDS = ("bidirectional", "causal")


@dataclass(frozen=True)
class PreparedAnswer:
    """A question whose prompt was read; its answer can begin.

    Attributes:
        sources: that were read, the best first.
        started: when the question came (``perf_counter``).
    """

    begun: PrefilledPrompt
    sources: tuple[Source, ...]
    trace: Trace
    started: float


@dataclass(frozen=True)
class Query:
    """A question that was embedded.

    Attributes:
        vector_D: what passages are compared with.
        block: the key/value state that embedding it left.
        started: when the question came (``perf_counter``).
    """

    question: str
    vector_D: Vector
    block: KVBlock
    trace: Trace
    started: float


@dataclass
class RagEngine:
    """Answers questions about documents, from their stored key/value state.

    Args:
        model: one that embeds and writes.
        index: passages and vectors that this model made.
        store: key/value blocks that this model made.
        cutting: how new documents are cut.
        place: folder of what is measured about model and machine, and of the names that folders
            of files go by; None keeps nothing.
        assembler: of this model; made when it is left out.
    """

    model: GritLM
    index: Index
    store: KVStore
    cutting: ChunkingOptions = field(default_factory=ChunkingOptions)
    place: Path | None = None
    assembler: PromptAssembler | None = None

    def __post_init__(self) -> None:
        made = PromptAssembler(self.model) if self.assembler is None else self.assembler
        self._assembler = made
        self._blocks = BlockProvider(self.model.lm, self.store)
        self._retriever = Retriever(self.model, self.index, self._blocks, made)
        self._planner = Planner(self.model, self._blocks, made, self.place)
        self._writing = threading.Lock()  # two threads that add would both add the same

    @classmethod
    def open(
        cls,
        place: str | Path,
        model: GritLM | None = None,
        *,
        cutting: ChunkingOptions | None = None,
        index: str | None = None,
        storage: str = "auto",
        disk_bytes: int | None = None,
        memory_bytes: int = 512 * 2**20,
        read_only: bool = False,
        longest: int | None = None,
    ) -> RagEngine:
        """An engine over a folder; it is made when it is not there.

        Args:
            model: None for the default model.
            cutting: how documents are cut; None for what the folder was made with.
            index: where LanceDB keeps the passages, e.g. ``s3://bucket/path``; None for the folder.
            storage: number format of blocks: ``float32``, ``float16``, ``bfloat16``, ``int8`` or
                ``int4``; ``auto`` for that of the folder, or of the model.
            disk_bytes: most bytes of blocks on disk; None for what the folder has, 10 GiB if new.
            memory_bytes: most bytes of blocks in memory.
            read_only: only ask; any number of processes may. Then no hits are counted, and what
                is missing is computed and not stored.
            longest: tokens of a prompt and its answer; None for what the model takes.

        Raises:
            InputError: when another model made what is there, another process writes to it, or
                there is nothing to read.
        """
        place = Path(place)
        if read_only:
            workspace.require(place)
        model = GritLM() if model is None else model
        maker = maker_of(model)
        settings = workspace.settings(place, cutting=cutting, index=index)
        assembler = PromptAssembler(model, limit=longest)
        check_cutting(settings.cutting, model, assembler)
        if not read_only:
            workspace.make(place)
        store = KVStore.open(
            place / workspace.BLOCKS,
            maker,
            storage=storage,
            dtype=model.dtype,
            disk_bytes=disk_bytes,
            memory_bytes=memory_bytes,
            read_only=read_only,
        )
        try:
            found = Index.open(
                settings.index or place / workspace.PASSAGES, maker, create=not read_only
            )
        except BaseException:
            store.close()
            raise
        if not read_only:
            workspace.keep(place, settings)  # last: what cannot be used is not settled
        return cls(model, found, store, settings.cutting, place, assembler)

    def close(self) -> None:
        """Write what is pending and let go of the folder."""
        self.store.close()
        self.index.close()

    def __enter__(self) -> RagEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(
        self,
        sources: DocumentInput | Iterable[DocumentInput],
        *,
        progress: bool = False,
        kinds: Sequence[str] = ("bidirectional",),
        on_model: OnModel | None = None,
        done: AddResult | None = None,
        text_field: str | None = None,
    ) -> AddResult:
        """Add files, folders, or dicts with ``text`` and perhaps ``id``, ``title``, ``metadata``.

        What is known already is left as it is; what has changed replaces its old passages. What
        cannot be read is skipped and named in the result. What a file is known by does not depend
        on where it is looked at from: see :func:`gritlm.rag.ingest.sources.documents`.

        Args:
            kinds: of key/value blocks that are stored now; others are computed when first asked.
            on_model: runs everything that uses the model, where another thread owns it.
            done: the result, filled as it goes: what went in is there after an interruption.
            text_field: name of the text of rows; None for ``text``, ``page_content``, ``contents``
                or ``content``.

        Raises:
            InputError: for a path that does not exist.
            StoreFullError: when the disk is full; what was there stays.
        """
        self._require_writing()
        many = [sources] if isinstance(sources, str | Path | Mapping) else sources
        for kind in kinds:
            choice(kind, KINDS, name="kinds")
        indexer = Indexer(
            self.model,
            self.index,
            self.store,
            self.cutting,
            self._assembler,
            kinds=kinds,
            on_model=on_model,
        )
        with self._writing:
            return indexer.add(
                many,  # type: ignore[arg-type]
                names=self._names,
                done=done,
                progress=progress,
                text_field=text_field,
            )

    def delete(self, document_ids: str | Sequence[str]) -> int:
        """Forget documents and their blocks; how many passages that were.

        A block that another document has too is computed again when it is needed. The model is
        not used, so any thread may call it.
        """
        self._require_writing()
        ids = [document_ids] if isinstance(document_ids, str) else list(document_ids)
        with self._writing:
            passages = list(self.index.passages(ids, metadata=False))
            forget(self.store, self._assembler, passages)
            deleted = self.index.delete(ids)
            with skipped_when_full("bytes of deleted blocks are not given back"):
                self.store.gc()
        return deleted

    def documents(
        self, ids: Collection[str] | None = None, *, whole: bool = True
    ) -> list[IndexedDocument]:
        """What is stored: id, title, number of passages and metadata of each document.

        Args:
            ids: of the ones that are wanted; None for all.
            whole: also read metadata of more than 32 KiB; else ``LEFT_OUT`` stands for it.
        """
        return self.index.documents(ids, whole=whole)

    def retrieve(self, question: str, *, top_k: int = 3, filter: Any = None) -> list[Hit]:
        """The passages nearest to a question, the best first."""
        return self.find(question, Search(top_k=top_k, filter=filter))

    def find(
        self, question: str, search: Search, *, checkpoint: Checkpoint | None = None
    ) -> list[Hit]:
        """As :meth:`retrieve`, with all that a search can be told.

        Args:
            checkpoint: called now and then in long work, for who shares the model's thread.
        """
        if search.rerank:
            self._planner.require_parity()
        return self._retriever.found(question, search, Trace(), paced(checkpoint))[0]

    @overload
    def answer(
        self,
        question: str,
        *,
        stream: Literal[False] = False,
        top_k: int = 3,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        filter: Any = None,
        max_new_tokens: int | None = None,
        search: Search | None = None,
        writing: Writing | None = None,
    ) -> Answer: ...

    @overload
    def answer(
        self,
        question: str,
        *,
        stream: Literal[True],
        top_k: int = 3,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        filter: Any = None,
        max_new_tokens: int | None = None,
        search: Search | None = None,
        writing: Writing | None = None,
    ) -> AnswerStream: ...

    @overload
    def answer(
        self,
        question: str,
        *,
        stream: bool,
        top_k: int = 3,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        filter: Any = None,
        max_new_tokens: int | None = None,
        search: Search | None = None,
        writing: Writing | None = None,
    ) -> Answer | AnswerStream: ...

    def answer(
        self,
        question: str,
        *,
        top_k: int = 3,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        filter: Any = None,
        stream: bool = False,
        max_new_tokens: int | None = None,
        search: Search | None = None,
        writing: Writing | None = None,
    ) -> Answer | AnswerStream:
        """Find passages and answer from them.

        Args:
            mode: what is reused: ``none``, ``query``, ``doc``, ``doc-query``, ``query-doc``, or
                ``auto`` for what this machine is fastest in among the first three.
            blocks: kind of the documents' blocks.
            stream: return an :class:`AnswerStream`.
            max_new_tokens: most tokens of the answer; None for what ``writing`` says.
            search: in place of ``top_k`` and ``filter``, for more.
            writing: how the answer is written.

        Raises:
            InputError: for an unknown value, when nothing is found, or when the question is longer
                than the model takes.
            ModelError: when reused state is not what this model would have computed.
        """
        search = Search(top_k=top_k, filter=filter) if search is None else search
        writing = _writing(writing, max_new_tokens)
        asked = self.ask(question, mode=mode, blocks=blocks, search=search, writing=writing)
        made = self._told(asked, writing)
        return made if stream else made.whole()

    def ask(
        self,
        question: str,
        *,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        search: Search | None = None,
        writing: Writing | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> PreparedAnswer:
        """As :meth:`answer`, up to where the answer begins; for who writes it himself.

        Args:
            checkpoint: called now and then in long work, for who shares the model's thread; what is
                done there counts as time of the answer.
        """
        search = Search() if search is None else search
        checkpoint = paced(checkpoint)
        writing = _writing(writing, None)
        query = self.query(question, mode=mode, search=search, checkpoint=checkpoint)
        hits = self.ordered(query, self.nearest(query, search), search, checkpoint=checkpoint)
        plan = self.plan(query, hits, search, mode=mode, blocks=blocks, writing=writing)
        return self.read(query, plan, blocks=blocks, writing=writing, checkpoint=checkpoint)

    def query(
        self,
        question: str,
        *,
        mode: Mode = "none",
        search: Search,
        checkpoint: Checkpoint | None = None,
    ) -> Query:
        """Embed a question: the first of the five steps of :meth:`ask`.

        This step, :meth:`ordered` and :meth:`read` use the model; :meth:`nearest` and :meth:`plan`
        do not, and may run in any thread while the model does something else.

        Raises:
            InputError: for a question that is longer than the model takes.
            ModelError: when reused state is not what this model would have computed.
        """
        self._planner.prepare(mode, checkpoint)  # once, and not a part of the answer's time
        if search.rerank:
            self._planner.require_parity()
        started = perf_counter()
        trace = Trace()
        with trace.stage("embed"):
            vector_D, block = self._retriever.embedded(question, trace)
        return Query(question, vector_D, block, trace, started)

    def nearest(self, query: Query, search: Search) -> list[Hit]:
        """Return the passages nearest to a query, the best first.

        Raises:
            InputError: for an unusable filter.
        """
        return self._retriever.nearest(query.question, query.vector_D, search, query.trace)

    def ordered(
        self, query: Query, hits: list[Hit], search: Search, *, checkpoint: Checkpoint | None = None
    ) -> list[Hit]:
        """Return the best of the passages, in the model's own order if the search asks for it."""
        return self._retriever.ordered(query.question, hits, search, query.trace, checkpoint)

    def plan(
        self,
        query: Query,
        hits: Sequence[Hit],
        search: Search,
        *,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        writing: Writing | None = None,
    ) -> PromptPlan:
        """Return the prompt of an answer.

        Raises:
            InputError: for an unknown mode, without passages, and when the question does not fit.
        """
        if not hits and query.trace.warnings:
            raise IndexFailedError(f"nothing to answer from: {query.trace.warnings[0]}")
        if not hits:
            why = (
                "nothing is stored yet; add documents first"
                if not len(self.index)
                else (f"no passage matches the filter {excerpt(str(search.filter))}")
            )
            raise InputError(f"nothing to answer from: {why}")
        return self._plan(query.question, hits, mode, blocks, _writing(writing, None), query.trace)

    def read(
        self,
        query: Query,
        plan: PromptPlan,
        *,
        blocks: BlockKind = "bidirectional",
        writing: Writing | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> PreparedAnswer:
        """Read a prompt, up to where the answer begins."""
        begun = self._read(
            plan, query.block, blocks, _writing(writing, None), query.trace, checkpoint
        )
        return PreparedAnswer(begun, _sources(plan), query.trace, query.started)

    @overload
    def answer_from(
        self,
        question: str,
        hits: Sequence[Hit],
        *,
        stream: Literal[False] = False,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        writing: Writing | None = None,
    ) -> Answer: ...

    @overload
    def answer_from(
        self,
        question: str,
        hits: Sequence[Hit],
        *,
        stream: Literal[True],
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        writing: Writing | None = None,
    ) -> AnswerStream: ...

    @overload
    def answer_from(
        self,
        question: str,
        hits: Sequence[Hit],
        *,
        stream: bool,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        writing: Writing | None = None,
    ) -> Answer | AnswerStream: ...

    def answer_from(
        self,
        question: str,
        hits: Sequence[Hit],
        *,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        stream: bool = False,
        writing: Writing | None = None,
    ) -> Answer | AnswerStream:
        """As :meth:`answer`, from passages that were found before, the best first."""
        started = perf_counter()
        trace = Trace()
        with trace.stage("embed"):
            _, block = self._retriever.embedded(question, trace)
        writing = _writing(writing, None)
        plan = self._plan(question, hits, mode, blocks, writing, trace)
        begun = self._read(plan, block, blocks, writing, trace, None)
        made = self._told(PreparedAnswer(begun, _sources(plan), trace, started), writing)
        return made if stream else made.whole()

    def begin(
        self,
        question: str,
        hits: Sequence[Hit],
        *,
        mode: Mode = "doc",
        blocks: BlockKind = "bidirectional",
        writing: Writing | None = None,
        trace: Trace | None = None,
    ) -> PrefilledPrompt:
        """Read all that stands before an answer: its state, and the logits of the first token."""
        how = _writing(writing, None)
        trace = Trace() if trace is None else trace
        _, block = self._retriever.embedded(question, trace)
        plan = self._plan(question, hits, mode, blocks, how, trace)
        return self._read(plan, block, blocks, how, trace, None)

    @property
    def cost(self) -> CostModel:
        """What modes take on this machine; measured at the first use."""
        return self._planner.cost

    @cached_property
    def _names(self) -> DocumentIds:
        return DocumentIds(self.place)

    def _require_writing(self) -> None:
        if self.store.read_only:
            raise InputError(
                f"{self.place} was opened for reading; open it without read_only to change it"
            )

    def _told(self, asked: PreparedAnswer, writing: Writing) -> AnswerStream:
        pieces = answering.pieces(
            self.model, asked.begun, writing, asked.trace, started=asked.started
        )
        return AnswerStream(pieces, asked.sources, asked.trace)

    def _plan(
        self,
        question: str,
        hits: Sequence[Hit],
        mode: Mode,
        kind: BlockKind,
        writing: Writing,
        trace: Trace,
    ) -> PromptPlan:
        choice(mode, [*RAG_FORMS, "auto"], name="mode")
        causal = choice(kind, KINDS, name="blocks") == "causal"
        with trace.stage("plan"):
            plan = self._planner.plan(
                question,
                hits,
                mode,
                max_new_tokens=writing.max_new_tokens,
                causal=causal,
                recompute=writing.recompute,
                trace=trace,
            )
        trace.mode = plan.mode
        trace.blocks = kind
        trace.dropped = tuple(hit.passage.id for hit in plan.dropped)
        return plan

    def _read(
        self,
        plan: PromptPlan,
        question: KVBlock,
        kind: BlockKind,
        writing: Writing,
        trace: Trace,
        checkpoint: Checkpoint | None,
    ) -> PrefilledPrompt:
        with trace.stage("load"):
            blocks = self._blocks.of(
                plan.parts,
                causal=kind == "causal",
                question=question,
                trace=trace,
                checkpoint=checkpoint,
            )
        return answering.begin(self.model, plan, blocks, writing, trace, checkpoint)


def _sources(plan: PromptPlan) -> tuple[Source, ...]:
    """Return the passages of a prompt, the best first."""
    return tuple(Source.of(hit) for hit in reversed(plan.hits))


def _writing(writing: Writing | None, max_new_tokens: int | None) -> Writing:
    made = Writing() if writing is None else writing
    return made if max_new_tokens is None else replace(made, max_new_tokens=max_new_tokens)
