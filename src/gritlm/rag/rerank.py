"""Reranking by the model's own answer to whether a passage answers the question.

The template follows the passage as it is embedded, so the KV block of the passage is reused::

    <|user|>
    {question}

    Does the passage before it answer the question? Answer yes or no.
    <|assistant|>

The score is the logit of "Yes" less that of "No" as the first token of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gritlm.errors import ModelError
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.gritlm import GritLM
from gritlm.prompts import for_yes_no
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.plan import PromptAssembler, PromptPart
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.trace import Trace
from gritlm.rag.types import Hit


class Reranker:
    """Scores passages by the logit of yes less the logit of no.

    Args:
        model: the model.
        blocks: provider of KV blocks.
        assembler: lays out prompts for the model.
        causal: kind of the blocks.
    """

    def __init__(
        self, model: GritLM, blocks: BlockProvider, assembler: PromptAssembler, *, causal: bool
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._assembler = assembler
        self._causal = causal
        self._yes, self._no = (self._first_id(word) for word in ("Yes", "No"))

    def ranked(
        self,
        question: str,
        hits: Sequence[Hit],
        checkpoint: Checkpoint | None = None,
        trace: Trace | None = None,
    ) -> list[tuple[Hit, float]]:
        """Return the passages with their scores, the best first; equal scores keep their order.

        Args:
            question: the question.
            hits: passages to score.
            checkpoint: checkpoint callback, called after each passage.
            trace: takes the number of tokens read.
        """
        trace = Trace() if trace is None else trace
        scored = []
        for hit in hits:
            scored.append((hit, self.score(question, hit, trace)))
            if checkpoint is not None:
                checkpoint()
        best = sorted(scored, key=lambda pair: -pair[1])
        return [(replace(hit, rank=rank), score) for rank, (hit, score) in enumerate(best, 1)]

    def score(self, question: str, hit: Hit, trace: Trace | None = None) -> float:
        """Return the logit of yes less the logit of no for one passage."""
        lm = self._model.lm
        own = Trace()
        (ids,) = self._assembler.passage_ids([hit.passage.embedded])
        part = PromptPart(ids, hit)
        blocks = self._blocks.of([part], causal=self._causal, question=None, trace=own)
        tail = self._assembler.tokens.for_chat(for_yes_no(question), start=False).ids
        if trace is not None:
            trace.tokens_reranked += own.tokens_computed + len(tail)
        logits_V = prefill(lm, prefix_cache(lm, blocks, room=len(tail)), tail)
        return float(logits_V[self._yes] - logits_V[self._no])

    def _first_id(self, word: str) -> int:
        ids = self._assembler.tokens.pieces([word], first=False)[0]
        if not ids:
            raise ModelError(
                f"the tokenizer has no ids for {word!r}: this model cannot rerank; leave rerank 0"
            )
        return ids[0]
