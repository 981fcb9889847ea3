"""The model that is adapted, loaded once: vectors, likelihoods of questions, greedy texts.

Shapes: P passages, Q queries, D of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gritlm.adapt.collection import CollectedPassage
from gritlm.errors import InputError
from gritlm.evaluation import memory
from gritlm.evaluation.rag.blocks import BlockCache
from gritlm.lm.continuous import greedy_answers
from gritlm.lm.generator import TextStream, complete
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.kv.slot_memory import obstacle
from gritlm.lm.quantization.layers import free_memory
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.vectors import normalise
from gritlm.prompts import gritlm_instruction
from gritlm.rag.fusion import read_question
from gritlm.rag.plan import PromptAssembler, question_after

SLOTS = 16  # texts that are written together: a step reads all weights whatever their number
# Bytes of the blocks of passages that are kept for the next questions: at least, at most, and the
# share of the free memory between them. A block of the default model has some 4 MB.
_LEAST_BLOCKS = 2**29
_MOST_BLOCKS = 2**32
_BLOCKS_SHARE = 0.25


class StartingModel:
    """The model that is adapted.

    Args:
        name: ``default``, ``base``, or a folder or hub id.
        device: its device; None for the best one.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name = name
        self._device = device
        self._loaded: GritLM | None = None
        self._vectors: tuple[tuple[str, ...], Tensor] | None = None

    def __reduce__(self) -> tuple[type[StartingModel], tuple[str, str | None]]:
        """Return how another process makes it, which loads the model itself."""
        folder = Path(self.name)
        name = str(folder.resolve()) if folder.exists() else self.name
        return StartingModel, (name, self._device)

    @property
    def model(self) -> GritLM:
        """The model, loaded at the first use.

        Raises:
            InputError: for a model without an LM head, or without embeddings.
        """
        if self._loaded is None:
            model = GritLM(self.name, device=self._device)
            if not model.lm.has_head:
                raise InputError(
                    f"{self.name} has no LM head, so it cannot write or judge questions; name a "
                    "model that embeds and generates"
                )
            model.require_embedding()
            self._loaded = model
        return self._loaded

    def free(self) -> None:
        """Free the memory of the model; it is loaded again when needed."""
        for name in ("assembler", "_blocks", "_batched"):
            self.__dict__.pop(name, None)
        self._loaded = None
        memory.free()

    @cached_property
    def assembler(self) -> PromptAssembler:
        """Layout of the prompts of the model."""
        return PromptAssembler(self.model)

    @cached_property
    def _blocks(self) -> BlockCache:
        return BlockCache(self.model.lm, causal=True, most_bytes=_block_bytes(self.model.lm.device))

    @cached_property
    def _batched(self) -> bool:
        return obstacle(self.model.lm) is None

    def passage_vectors(
        self, passages: Sequence[CollectedPassage], *, progress: bool | None = None
    ) -> Tensor:
        """Return the normalised vectors (P, D) of passages; those of the last call are kept.

        Args:
            passages: the passages.
            progress: see ``show_progress_bar`` of :meth:`gritlm.GritLM.encode`.
        """
        names = tuple(passage.id for passage in passages)
        if self._vectors is None or self._vectors[0] != names:
            vector_PD = self.model.encode(
                [passage.embedded for passage in passages],
                instruction=gritlm_instruction(),
                max_length=self._longest,
                convert_to_tensor=True,
                show_progress_bar=progress,
            )
            self._vectors = (names, normalise(vector_PD.float().cpu()))
        return self._vectors[1]

    def query_vectors(self, queries: Sequence[str]) -> Tensor:
        """Return the normalised vectors (Q, D) of queries, with the instruction of the model."""
        vector_QD = self.model.encode_query(
            list(queries),
            max_length=self._longest,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return normalise(vector_QD.float().cpu())

    @torch.inference_mode()
    def likelihoods(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return the mean log-probability per token of a question after each passage alone.

        Args:
            question: the question.
            texts: passages as they are embedded.
        """
        ids, span = question_after(self.assembler.tokens, question)
        limit = self._longest - len(ids)
        read = [each[:limit] for each in self.assembler.passage_ids(texts)]
        batch = RowBatch(self.model.lm, self._blocks.of(read), room=len(ids))
        return read_question(batch, ids, span)

    def texts(
        self, prompts: Sequence[Sequence[int]], *, until: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        """Return the likeliest text after each prompt, without the string that ends it.

        A prompt that leaves no room for a text has an empty one.

        Args:
            prompts: token ids.
            until: strings that end a text.
            max_new_tokens: most tokens of a text.
        """
        room = self._longest - max_new_tokens
        usable = [ids for ids in prompts if len(ids) <= room]
        texts = iter(self._texts(usable, until, max_new_tokens) if usable else [])
        return [next(texts) if len(ids) <= room else "" for ids in prompts]

    def _texts(
        self, prompts: Sequence[Sequence[int]], until: Sequence[str], most: int
    ) -> list[str]:
        if not self._batched:
            return [self._text(ids, until, most) for ids in prompts]
        found = greedy_answers(self.model, prompts, until=until, max_new_tokens=most, slots=SLOTS)
        texts = [str(self.model.tokenizer.decode(ids, skip_special_tokens=True)) for ids in found]
        return [_up_to(text, until) for text in texts]

    def _text(self, ids: Sequence[int], until: Sequence[str], most: int) -> str:
        """Return a text that is written alone, by a model whose state has no KV slots."""
        model = self.model
        tokens = complete(
            model.lm,
            ids,
            sampler=SamplingParams().sampler(),
            max_new_tokens=most,
            end_ids=model.end_ids,
        )
        return "".join(TextStream(model.tokenizer, until).pieces(tokens))

    @property
    def _longest(self) -> int:
        return self.model.lm.max_positions or 1 << 20


def _block_bytes(device: torch.device) -> int:
    if device.type != "cpu":
        return _LEAST_BLOCKS
    return int(min(max(_LEAST_BLOCKS, _BLOCKS_SHARE * free_memory()), _MOST_BLOCKS))


def _up_to(text: str, until: Sequence[str]) -> str:
    cuts = [at for each in until if (at := text.find(each)) >= 0]
    return text[: min(cuts)] if cuts else text
