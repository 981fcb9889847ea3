"""RagEngine: answers about documents, from the key/value state of the pass that embedded them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn, Unpack

from gritlm.errors import InputError, choice
from gritlm.lm.gritlm import GritLM
from gritlm.printable import excerpt
from gritlm.rag import answer as answering
from gritlm.rag import opening, together, workspace
from gritlm.rag.answer import Answer, AnswerStream, PreparedAnswer
from gritlm.rag.cooperative import Checkpoint, OnModel, paced
from gritlm.rag.fusion import SpannedIds
from gritlm.rag.index.index import Index, IndexedDocument
from gritlm.rag.index.passage_table import IndexFailedError
from gritlm.rag.ingest.file_ids import DocumentIds
from gritlm.rag.ingest.file_reader import require_reader
from gritlm.rag.ingest.ingest import (
    AddResult,
    ChunkingOptions,
    DocumentInput,
    Indexer,
    forget,
    forget_media,
)
from gritlm.rag.kvstore.errors import skipped_when_full
from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.media.media_library import MediaLibrary
from gritlm.rag.media.media_reading import media_reading
from gritlm.rag.options import AnswerOptions, AnswerOverrides, override
from gritlm.rag.plan import AnswerPlan, PromptAssembler, question_after
from gritlm.rag.prefill import Prefiller, ReadPassages
from gritlm.rag.quote import Quote, best_sentence
from gritlm.rag.retrieve import Query, Retriever, Search, candidates, naming_question
from gritlm.rag.reuse import reuse_check
from gritlm.rag.reuse.blocks import BlockProvider, require_kind
from gritlm.rag.reuse.reuse_check import ReuseCheck
from gritlm.rag.together import PlannedAnswer
from gritlm.rag.types import BLOCK_KINDS, BlockKind, Hit, MediaKind, ReaderName, Trace


@dataclass
class RagEngine:
    """Question answering over documents, from their stored key/value state.

    :meth:`open` makes one from a folder.

    Args:
        model: a model that embeds and generates.
        index: passages and their embeddings by this model.
        store: KV blocks of this model.
        cutting: chunking of new documents.
        place: workspace, which keeps measurements of model and machine and the ids of indexed
            folders; None keeps them in memory only.
        assembler: prompt assembler of this model; None makes one.
        blocks: kind of the KV blocks that are stored.
    """

    model: GritLM
    index: Index
    store: KVStore
    cutting: ChunkingOptions = field(default_factory=ChunkingOptions)
    place: Path | None = None
    assembler: PromptAssembler | None = None
    blocks: BlockKind = "causal"

    def __post_init__(self) -> None:
        assembler = PromptAssembler(self.model) if self.assembler is None else self.assembler
        self._assembler = assembler
        if assembler.media is None and self.model.senses is not None:
            assembler.media = MediaLibrary(self.model, assembler.tokens, self.place)
        provider = BlockProvider(self.model.lm, self.store, assembler.media)
        self._retriever = Retriever(
            self.model, self.index, provider, assembler, causal=self.blocks == "causal"
        )
        self._reuse_check: ReuseCheck | None = None  # measured at the first use
        self._may_reuse = False
        self._prefiller = Prefiller(self.model, provider)
        self._write_lock = threading.Lock()  # or two threads could add the same document

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
        blocks: BlockKind | None = None,
        shared_blocks: SharedBlocks | None = None,
    ) -> RagEngine:
        """Open the workspace in a folder, or make a new one.

        Args:
            place: folder of the workspace.
            model: a model that embeds and generates; None for the default model.
            cutting: chunking of documents; None for that of the workspace.
            index: address in LanceDB, Qdrant or PostgreSQL; None for LanceDB in the folder.
            storage: number format of blocks: ``float32``, ``float16``, ``bfloat16``, ``int8`` or
                ``int4``; ``auto`` for that of the workspace, or of the model.
            disk_bytes: most bytes of blocks on disk; None for that of the workspace, 10 GiB if new.
            memory_bytes: most bytes of blocks in memory.
            read_only: change nothing, in any number of processes; computed blocks are not kept.
            longest: most tokens of a prompt and its answer; None for the limit of the model.
            blocks: kind of the stored blocks; None for that of the workspace, ``causal`` if new.
            shared_blocks: storage of blocks that several workspaces share; None for none.

        Returns:
            The engine. Close it, or use it in a ``with`` statement.

        Raises:
            InputError: when another model made the workspace, another process writes to it, or it
                cannot be read.
        """
        place = Path(place)
        if read_only:
            workspace.require(place)
        model = GritLM() if model is None else model
        settings = workspace.settings(place, cutting=cutting, index=index, blocks=blocks)
        assembler = opening.assembler(model, settings, longest)
        if not read_only:
            workspace.make(place)
        store, passages = opening.stores(
            place,
            settings,
            model,
            storage=storage,
            read_only=read_only,
            disk_bytes=disk_bytes,
            memory_bytes=memory_bytes,
        )
        if not read_only:
            workspace.keep(place, settings)  # last, so that an error above leaves no settings
        if shared_blocks is not None:
            store.attach(shared_blocks)
        return cls(model, passages, store, settings.cutting, place, assembler, settings.blocks)

    def close(self) -> None:
        """Write pending changes and release the workspace."""
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
        kinds: Sequence[str] | None = None,
        on_model: OnModel | None = None,
        done: AddResult | None = None,
        text_field: str | None = None,
        reader: ReaderName = "standard",
    ) -> AddResult:
        """Add files, folders, or dicts with ``text`` and perhaps ``id``, ``title``, ``metadata``.

        A model that reads images or sound indexes files of these too.

        Unchanged documents are left as they are; a changed document replaces its old passages.
        Unreadable files are skipped and named in the result. Ids of files: see
        :func:`gritlm.rag.ingest.sources.documents`.

        Args:
            sources: a path, a dict, or several of them.
            progress: show a progress bar.
            kinds: kinds of KV blocks to store; None for that of the workspace.
            on_model: runs all work of the model, where another thread owns it.
            done: result to fill, which is valid after an interruption too; None makes a new one.
            text_field: name of the text field of rows; None for ``text``, ``page_content``,
                ``contents`` or ``content``.
            reader: ``docling`` reads PDF files, scans and images by docling; ``pages`` embeds the
                pages of PDF files as images instead of their text, ``pages-and-text`` both.

        Returns:
            The numbers of added, replaced, unchanged and skipped documents.

        Raises:
            InputError: for a path that does not exist, or pages and a model that reads no images.
            StoreFullError: when the disk is full; the documents added before stay.
            MissingExtraError: when the reader is not installed.
        """
        self._require_writable()
        require_reader(reader)
        reading = media_reading(self.model, self.cutting.seconds, reader)
        inputs = [sources] if isinstance(sources, str | Path | Mapping) else sources
        kinds = (self.blocks,) if kinds is None else kinds
        for kind in kinds:
            choice(kind, BLOCK_KINDS, name="kinds")
            require_kind(self.model, kind)
        indexer = self.indexer(kinds, on_model=on_model)
        with self._write_lock:
            return indexer.add(
                inputs,  # type: ignore[arg-type]
                names=self.names,
                done=done,
                progress=progress,
                text_field=text_field,
                reading=reading,
            )

    def indexer(
        self,
        kinds: Sequence[str],
        *,
        on_model: OnModel | None = None,
        form: type[Indexer] = Indexer,
    ) -> Indexer:
        """Return an indexer of documents into this workspace.

        Args:
            kinds: kinds of KV blocks to store.
            on_model: runs all work of the model, where another thread owns it.
            form: class of the indexer.
        """
        return form(
            self.model,
            self.index,
            self.store,
            self.cutting,
            self._assembler,
            kinds=kinds,
            on_model=on_model,
        )

    def delete(self, document_ids: str | Sequence[str]) -> int:
        """Delete documents and their KV blocks, and return the number of deleted passages.

        The blocks are deleted in memory, on disk and in shared storage. A block shared with another
        document or workspace is computed again at its next use. The model is not used, so any
        thread may call this.
        """
        self._require_writable()
        ids = [document_ids] if isinstance(document_ids, str) else list(document_ids)
        with self._write_lock:
            passages = list(self.index.passages(ids, metadata=False))
            forget(self.store, self._assembler, passages)
            deleted = self.index.delete(ids)
            forget_media(self._assembler, passages)
            with skipped_when_full("the bytes of deleted blocks are not freed"):
                self.store.gc()
        return deleted

    def documents(
        self, ids: Collection[str] | None = None, *, whole: bool = True
    ) -> list[IndexedDocument]:
        """Return id, title, number of passages and metadata of the stored documents.

        Args:
            ids: ids of the documents to return; None for all documents.
            whole: also read metadata of more than 32 KiB; ``LEFT_OUT`` replaces it otherwise.
        """
        return self.index.documents(ids, whole=whole)

    def media(self, passage_id: str) -> tuple[MediaKind, bytes] | None:
        """Return the kind and the bytes of a passage's image (PNG) or sound (WAV).

        The model is not used, so any thread may call this.

        Args:
            passage_id: id of the passage, as in a hit or a source.

        Returns:
            None for a passage of text, or an unknown one.
        """
        library = self._assembler.media
        found = None if library is None else library.content(passage_id)
        return found if found is not None and self.index.has(passage_id) else None

    def retrieve(self, question: str, *, top_k: int = 3, filter: Any = None) -> list[Hit]:
        """Return the passages nearest to a question, the best first."""
        return self.find(question, Search(top_k=top_k, filter=filter))

    def find(
        self, question: str, search: Search, *, checkpoint: Checkpoint | None = None
    ) -> list[Hit]:
        """Return the passages for a question, the best first, with all settings of a search.

        Args:
            question: the question.
            search: settings of the search.
            checkpoint: checkpoint callback; None where no other work waits for the model.

        Raises:
            InputError: for a question longer than the model takes, or an unusable filter.
            ModelError: when reranking reuses state and reuse fails its check with this model.
        """
        if search.rerank:
            self.require_reuse()
        return self._retriever.found(question, search, Trace(), _paced(checkpoint))[0]

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

    def quote(self, question: str, answer: Answer) -> Quote | None:
        """Return the sentence of an answer's passage that answers the question best.

        Each sentence is read alone with the question behind it, about as many tokens as the passage
        has, so this takes longer than a short answer.

        Args:
            question: the question of the answer.
            answer: the answer. The best passage that it comes from is quoted.

        Returns:
            The sentence and its place in the passage; None for an answer without a passage, or from
            an image or a sound.

        Raises:
            InputError: for a question that is empty or longer than the model takes.
        """
        source = next((each for each in answer.sources if each.used), None)
        if source is None or source.media is not None:
            return None
        vector_D, _ = self._retriever.embedded(question, Trace())
        asked = SpannedIds(*question_after(self._assembler.tokens, question))
        return best_sentence(self.model, self._assembler, vector_D, asked, source)

    def answers(
        self,
        questions: Sequence[str],
        options: AnswerOptions | None = None,
        **overrides: Unpack[AnswerOverrides],
    ) -> list[Answer]:
        """Answer several questions, faster than one by one: they share the passes of the model.

        Args:
            questions: the questions.
            options: settings of all answers; None for the defaults.
            overrides: single fields of the options; ``max_new_tokens`` of their ``sampling``.

        Returns:
            The answers in the order of the questions. Times in their traces are those of the
            batches that they were in.

        Raises:
            InputError: as :meth:`answer`, with the number of the question; nothing is returned.
            UnknownArgumentError: as :meth:`answer`.
            ModelError: as :meth:`answer`.
        """
        options = override(options, overrides)
        if isinstance(questions, str):
            raise InputError("questions is a single text; expected a list, or call answer()")
        found: list[Answer] = []
        for start in range(0, len(questions), together.MOST_QUESTIONS):
            some = questions[start : start + together.MOST_QUESTIONS]
            prepared = self._prepare_together(some, options, first=start)
            found += together.generate_together(self.model, prepared, options.sampling)
        return found

    def _prepare_together(
        self, questions: Sequence[str], options: AnswerOptions, *, first: int
    ) -> list[PreparedAnswer]:
        """Do everything up to the first tokens of several answers.

        Args:
            questions: the questions.
            options: settings of all answers.
            first: number of the first question in the whole list, for errors.
        """
        self._require_checks(options, None)
        queries = self._retriever.queries(questions, first=first)
        planned = []
        for number, query in enumerate(queries, start=first):
            with naming_question(number):
                hits = self.ordered(query, self.nearest(query, options), options)
                plan = self.plan(query, hits, options)
            planned.append(PlannedAnswer(query, plan, options))
        return self.read_together(planned)

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
        checkpoint = _paced(checkpoint)
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
        self._require_checks(options, checkpoint)
        started = perf_counter()
        trace = Trace()
        with trace.stage("embed"):
            vector_D, block = self._retriever.embedded(question, trace)
        return Query(question, vector_D, block, trace, started)

    def queries(
        self,
        questions: Sequence[str],
        options: Sequence[AnswerOptions],
        *,
        checkpoint: Checkpoint | None = None,
    ) -> list[Query]:
        """Do :meth:`query` for several questions in common passes, each with its options.

        Raises:
            InputError: as :meth:`query`, with the number of the question.
            ModelError: as :meth:`query`.
        """
        for each in options:
            self._require_checks(each, checkpoint)
        return self._retriever.queries(questions, first=0)

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

    def plan(self, query: Query, hits: Sequence[Hit], options: AnswerOptions) -> AnswerPlan:
        """Return the prompts of an answer; without the model.

        Raises:
            InputError: without passages, and when the question does not fit.
            IndexFailedError: without passages, when the index could not be searched.
            ModelError: when the mode reuses state and reuse fails its check with this model.
        """
        trace = query.trace
        if not hits:
            self._raise_without_passages(options, trace)
        with trace.stage("plan"):
            plan = self._prompts(query.question, hits, options)
        trace.fusion = plan.fusion
        trace.mode = options.mode
        trace.blocks = self.blocks if options.blocks is None else options.blocks
        trace.dropped = tuple(hit.passage.id for hit in plan.dropped)
        return plan

    def _prompts(self, question: str, hits: Sequence[Hit], options: AnswerOptions) -> AnswerPlan:
        """Return one prompt for all passages (``joint``), or one for each of them."""
        if options.mode != "none":
            self.require_reuse()
        tokens = options.sampling.max_new_tokens
        fusion = options.fuses
        if fusion == "joint":
            plan = self._assembler.plan(options.mode, question, hits, max_new_tokens=tokens)
            return AnswerPlan(fusion, (plan,))
        read = candidates(hits, self.model.settings.fusion, fusion=fusion, margin=options.margin)
        rows = self._assembler.rows(question, read, max_new_tokens=tokens)
        rows = [replace(row, mode=options.mode) for row in rows]
        return AnswerPlan(fusion, tuple(rows), contrasts=options.contrast > 0)

    def read(
        self,
        query: Query,
        plan: AnswerPlan,
        options: AnswerOptions,
        *,
        checkpoint: Checkpoint | None = None,
    ) -> PreparedAnswer:
        """Load the blocks of the prompts and prefill the rest of them."""
        trace = query.trace
        read = self._prefiller.read(
            plan,
            options,
            causal=trace.blocks == "causal",
            question=query.block,
            trace=trace,
            checkpoint=checkpoint,
        )
        return self._prepared(read, query)

    def read_together(
        self,
        planned: Sequence[PlannedAnswer],
        *,
        grows: bool = True,
        checkpoint: Checkpoint | None = None,
    ) -> list[PreparedAnswer]:
        """Do :meth:`read` for several answers, whose rows share the passes of the model.

        Args:
            planned: the answers.
            grows: whether the answers are generated in the caches of their prompts.
            checkpoint: checkpoint callback.
        """
        read = together.read_together(
            self.model, self._prefiller, planned, grows=grows, checkpoint=checkpoint
        )
        pairs = zip(read, planned, strict=True)
        return [self._prepared(passages, each.query) for passages, each in pairs]

    def _prepared(self, read: ReadPassages, query: Query) -> PreparedAnswer:
        """Return an answer right before its first token."""
        trace = query.trace
        trace.scores = [asdict(score) for score in read.scores]
        trace.supported = self._supported(read.gain)
        return PreparedAnswer(read.prompt, answering.sources_of(read), trace, query.started)

    def _require_checks(self, options: AnswerOptions, checkpoint: Checkpoint | None) -> None:
        """Check the kind of the blocks, and make the measurements that an answer needs, once for
        each model and machine."""
        if options.blocks is not None:
            require_kind(self.model, options.blocks)
        if options.mode != "none":
            self.check_reuse(checkpoint)  # no part of the answer's time
        if options.rerank:
            self.require_reuse()

    def check_reuse(self, checkpoint: Checkpoint | None = None) -> ReuseCheck:
        """Return the result of the reuse check of this model, measured at the first use.

        Args:
            checkpoint: checkpoint callback; None where no other work waits for the model.
        """
        if self._reuse_check is None:
            bos = self._assembler.prefix
            self._reuse_check = workspace.parity(
                self.model, self.place, bos=bos, checkpoint=checkpoint
            )
        return self._reuse_check

    def require_reuse(self) -> None:
        """Require that the reuse check holds for this model.

        Raises:
            ModelError: with the measured difference, when it does not hold.
        """
        if not self._may_reuse:
            reuse_check.require(self.check_reuse(), name=str(self.model.source))
            self._may_reuse = True

    def _supported(self, gain: float | None) -> bool | None:
        settings = self.model.settings.fusion
        if gain is None or settings is None or settings.absent is None:
            return None
        return gain >= settings.absent

    @cached_property
    def names(self) -> DocumentIds:
        """Document ids of files, by the folders that were added before."""
        return DocumentIds(self.place)

    def _require_writable(self) -> None:
        if self.store.read_only:
            raise InputError(
                f"{self.place} was opened for reading; open it without read_only to change it"
            )

    def _raise_without_passages(self, options: AnswerOptions, trace: Trace) -> NoReturn:
        if trace.warnings:
            raise IndexFailedError(f"no passages to answer from: {trace.warnings[0]}")
        if not len(self.index):
            raise InputError(
                "no passages to answer from: nothing is stored yet; add documents first"
            )
        shown = excerpt(str(options.filter))
        raise InputError(f"no passages to answer from: no passage matches the filter {shown}")


def _paced(checkpoint: Checkpoint | None) -> Checkpoint | None:
    return None if checkpoint is None else paced(checkpoint)
