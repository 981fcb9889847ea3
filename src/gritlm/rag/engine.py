"""RagEngine: documents in, answers out; what was computed to find a passage answers from it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn, Unpack

from gritlm.errors import InputError, choice
from gritlm.lm.gritlm import GritLM
from gritlm.printable import excerpt
from gritlm.rag import answer as answering
from gritlm.rag import workspace
from gritlm.rag.answer import Answer, AnswerStream, PreparedAnswer, Source
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
from gritlm.rag.options import AnswerOptions, AnswerOverrides, override
from gritlm.rag.plan import BLOCK_KINDS, PromptAssembler, PromptPlan
from gritlm.rag.planner import Planner
from gritlm.rag.retrieve import Query, Retriever, Search
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.trace import Trace
from gritlm.rag.types import Hit


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
            choice(kind, BLOCK_KINDS, name="kinds")
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

    def answer(
        self,
        question: str,
        options: AnswerOptions | None = None,
        *,
        hits: Sequence[Hit] | None = None,
        **overrides: Unpack[AnswerOverrides],
    ) -> Answer:
        """Find passages and answer from them.

        ``engine.answer(question, top_k=1)`` is short for
        ``engine.answer(question, AnswerOptions(top_k=1))``.

        Args:
            question: the question.
            options: settings of the search, the prompt and the sampling; None for the defaults.
            hits: passages from an earlier search, the best first, instead of a new search.
            overrides: single fields of the options; ``max_new_tokens`` of their ``sampling``.

        Returns:
            The answer with its sources and its trace.

        Raises:
            InputError: for a value out of range, when no passage is found, or when the question is
                longer than the model takes.
            UnknownArgumentError: for a keyword that is no field of the options.
            ModelError: when the mode reuses state and reuse fails its check with this model.
        """
        return self.stream(question, options, hits=hits, **overrides).whole()

    def stream(
        self,
        question: str,
        options: AnswerOptions | None = None,
        *,
        hits: Sequence[Hit] | None = None,
        **overrides: Unpack[AnswerOverrides],
    ) -> AnswerStream:
        """Find passages, prefill the prompt, and return an iterator over the answer's pieces.

        Args:
            question: the question.
            options: settings of the search, the prompt and the sampling; None for the defaults.
            hits: passages from an earlier search, the best first, instead of a new search.
            overrides: single fields of the options; ``max_new_tokens`` of their ``sampling``.

        Returns:
            The stream. Its ``sources`` are known; its ``answer`` is complete at the end.

        Raises:
            InputError: as :meth:`answer`.
            UnknownArgumentError: as :meth:`answer`.
            ModelError: as :meth:`answer`.
        """
        options = override(options, overrides)
        prepared = self.prepare(question, options, hits=hits)
        pieces = answering.generate(self.model, prepared, options.sampling)
        return AnswerStream(pieces, prepared.sources, prepared.trace)

    def prepare(
        self,
        question: str,
        options: AnswerOptions,
        *,
        hits: Sequence[Hit] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> PreparedAnswer:
        """Do everything up to the first token of an answer.

        Its five steps are public for callers that run them on different threads: :meth:`query`,
        :meth:`ordered` and :meth:`read` use the model; :meth:`nearest` and :meth:`plan` do not.

        Args:
            question: the question.
            options: settings of the search, the prompt and the sampling.
            hits: passages from an earlier search, the best first, instead of a new search.
            checkpoint: checkpoint callback; its time counts as time of the answer.

        Returns:
            The state of the model after the prompt, with the sources.

        Raises:
            InputError: as :meth:`answer`.
            ModelError: as :meth:`answer`.
        """
        checkpoint = paced(checkpoint)
        query = self.query(question, options, checkpoint=checkpoint)
        if hits is None:
            nearest = self.nearest(query, options)
            hits = self.ordered(query, nearest, options, checkpoint=checkpoint)
        plan = self.plan(query, hits, options)
        return self.read(query, plan, options, checkpoint=checkpoint)

    def query(
        self, question: str, options: AnswerOptions, *, checkpoint: Checkpoint | None = None
    ) -> Query:
        """Embed a question, and keep the key/value block of the pass.

        Args:
            question: the question.
            options: the mode and the reranking decide which measurements are made first, once for
                each model and machine.
            checkpoint: checkpoint callback.

        Raises:
            InputError: for a question that is longer than the model takes.
            ModelError: when reranking reuses state and reuse fails its check with this model.
        """
        self._planner.prepare(options.mode, checkpoint)  # no part of the answer's time
        if options.rerank:
            self._planner.require_parity()
        started = perf_counter()
        trace = Trace()
        with trace.stage("embed"):
            vector_D, block = self._retriever.embedded(question, trace)
        return Query(question, vector_D, block, trace, started)

    def nearest(self, query: Query, options: AnswerOptions) -> list[Hit]:
        """Return the passages nearest to a query, the best first; without the model.

        Raises:
            InputError: for an unusable filter.
        """
        return self._retriever.nearest(query.question, query.vector_D, options.search, query.trace)

    def ordered(
        self,
        query: Query,
        hits: list[Hit],
        options: AnswerOptions,
        *,
        checkpoint: Checkpoint | None = None,
    ) -> list[Hit]:
        """Return the best ``top_k`` passages, in the order of the model if reranking is on."""
        return self._retriever.ordered(
            query.question, hits, options.search, query.trace, checkpoint
        )

    def plan(self, query: Query, hits: Sequence[Hit], options: AnswerOptions) -> PromptPlan:
        """Return the prompt of an answer; without the model.

        Raises:
            InputError: without passages, and when the question does not fit.
            IndexFailedError: without passages, when the index could not be searched.
            ModelError: when the mode reuses state and reuse fails its check with this model.
        """
        trace = query.trace
        if not hits:
            self._raise_without_passages(options, trace)
        with trace.stage("plan"):
            plan = self._planner.plan(query.question, hits, options, trace)
        trace.mode = plan.mode
        trace.blocks = options.blocks
        trace.dropped = tuple(hit.passage.id for hit in plan.dropped)
        return plan

    def read(
        self,
        query: Query,
        plan: PromptPlan,
        options: AnswerOptions,
        *,
        checkpoint: Checkpoint | None = None,
    ) -> PreparedAnswer:
        """Load the blocks of a prompt and prefill the rest of it."""
        trace = query.trace
        with trace.stage("load"):
            blocks = self._blocks.of(
                plan.parts,
                causal=options.blocks == "causal",
                question=query.block,
                trace=trace,
                checkpoint=checkpoint,
            )
        prompt = answering.prefill(self.model, plan, blocks, options, trace, checkpoint)
        sources = tuple(Source.of(hit) for hit in reversed(plan.hits))
        return PreparedAnswer(prompt, sources, trace, query.started)

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

    def _raise_without_passages(self, options: AnswerOptions, trace: Trace) -> NoReturn:
        if trace.warnings:
            raise IndexFailedError(f"nothing to answer from: {trace.warnings[0]}")
        if not len(self.index):
            raise InputError("nothing to answer from: nothing is stored yet; add documents first")
        raise InputError(
            f"nothing to answer from: no passage matches the filter {excerpt(str(options.filter))}"
        )
