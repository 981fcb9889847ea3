"""Fusion of several cached passages: each is read alone, and scored by the question behind it.

``sequence`` goes on with the best row alone (RAG-Sequence, Lewis et al. 2020, arXiv 2005.11401,
over cached state). ``token`` mixes the next-token distributions of all rows at every step
(RAG-Token), optionally in contrast to a row without passage (Pced, arXiv 2601.08670). ``joint``
puts all passages into one prompt. The score of a row is the mean log-probability of the question's
tokens behind its passage (UPR, arXiv 2204.07496), plus the weighted cosine of the retrieval.

Shapes: B rows, Q tokens of the question, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.rag.types import Hit

Fusion = Literal["sequence", "token", "joint"]
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)

# Temperatures of the weights of ``token``: of calibrated scores, and of cosines as in training.
_SCORE_TEMPERATURE = 0.1
_COSINE_TEMPERATURE = 0.02
# Positions whose logits are held at the same time: 512 of 49,152 tokens take 100 MB in float32.
_MOST_POSITIONS = 512


@dataclass(frozen=True)
class PassageScore:
    """Scores of a passage that was read for an answer.

    Attributes:
        passage: id of the passage.
        cosine: cosine of question and passage.
        likelihood: mean log-probability of the question's tokens behind the passage.
        score: number by which the rows are ranked.
    """

    passage: str
    cosine: float
    likelihood: float
    score: float


@dataclass(frozen=True)
class SpannedIds:
    """Token ids that are read behind a passage.

    Attributes:
        ids: the token ids.
        span: begin and end of the question in them.
    """

    ids: Sequence[int]
    span: tuple[int, int]


def read_question(batch: RowBatch, ids: Sequence[int], span: tuple[int, int]) -> list[float]:
    """Read a question in every row; return the mean log-probability of its tokens in each row.

    Args:
        batch: the rows, to which the tokens up to the end of the question are added.
        ids: token ids that are read after the blocks.
        span: begin and end of the question in ``ids``.
    """
    return read_questions(batch, [SpannedIds(ids, span)] * len(batch.tokens))


@torch.inference_mode()
def read_questions(batch: RowBatch, rows: Sequence[SpannedIds]) -> list[float]:
    """Read the question of each row; return the mean log-probability of its tokens.

    The logits of all positions are large, so long questions in many rows are read in pieces.

    Args:
        batch: the rows, to which the tokens up to the end of their questions are added.
        rows: the question of each row.
    """
    width = max(row.span[1] for row in rows)
    paddings = [width - row.span[1] for row in rows]
    # Columns of the pass; the first one whose logits are those of a question's token.
    needed = min(padding + row.span[0] - 1 for padding, row in zip(paddings, rows, strict=True))
    size = max(1, _MOST_POSITIONS // len(rows))
    sum_B = torch.zeros(len(rows))
    start = 0
    for stop in [*range(needed + size, width, size), width]:
        first = max(start, needed)
        pieces = [
            row.ids[max(0, start - padding) : max(0, stop - padding)]
            for padding, row in zip(paddings, rows, strict=True)
        ]
        logits_BSV = batch.prefill_rows(pieces, keep=stop - first)
        target_BS = _targets(rows, paddings, range(first, stop)).to(logits_BSV.device)
        sum_B += _target_logprobs(logits_BSV, target_BS).sum(dim=1).cpu()
        start = stop
    sizes = [row.span[1] - row.span[0] for row in rows]
    return [float(total) / size for total, size in zip(sum_B, sizes, strict=True)]


def _targets(rows: Sequence[SpannedIds], paddings: Sequence[int], columns: range) -> Tensor:
    """Return the next token of each row after each column (B, S), -1 outside of questions."""
    found = []
    for row, padding in zip(rows, paddings, strict=True):
        places = [column + 1 - padding for column in columns]
        begin, end = row.span
        found.append([row.ids[at] if begin <= at < end else -1 for at in places])
    return torch.tensor(found)


def _target_logprobs(logits_BSV: Tensor, target_BS: Tensor) -> Tensor:
    """Return the log-probability (B, S) of each token from its logits; 0 outside of questions."""
    logprob_BSV = logits_BSV.float().log_softmax(dim=-1)
    found_BS = logprob_BSV.gather(2, target_BS.clamp(min=0)[:, :, None])[:, :, 0]
    return found_BS.masked_fill(target_BS < 0, 0.0)


def passage_scores(
    hits: Sequence[Hit], likelihoods: Sequence[float], settings: FusionSettings | None
) -> list[PassageScore]:
    """Return the scores of passages in their order.

    Args:
        hits: the passages.
        likelihoods: mean log-probability of the question behind each passage.
        settings: calibration of the model; None without one: the cosine decides alone.
    """
    scores = []
    for hit, likelihood in zip(hits, likelihoods, strict=True):
        score = hit.score
        if settings is not None:
            score = settings.score(likelihood, hit.score)
        scores.append(PassageScore(hit.passage.id, hit.score, likelihood, score))
    return scores


class Mixture:
    """Mixture of the distributions of rows that generate one answer together.

    Args:
        scores: scores of the passages.
        calibrated: whether the scores are calibrated, or cosines.
        contrast: weight of the contrast to a last row without passage; 0 where there is no such
            row.
    """

    def __init__(
        self, scores: Sequence[PassageScore], *, calibrated: bool, contrast: float = 0.0
    ) -> None:
        self._contrast = contrast
        temperature = _SCORE_TEMPERATURE if calibrated else _COSINE_TEMPERATURE
        score_B = torch.tensor([each.score for each in scores])
        self._logweight_B1 = (score_B / temperature).log_softmax(dim=0)[:, None]

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Return the mixture (V,) of the rows' distributions, as log-probabilities."""
        logprob_BV = logits_BV.float().log_softmax(dim=-1)
        weight_B1 = self._logweight_B1.to(logprob_BV.device)
        mixed_V = (logprob_BV[: len(weight_B1)] + weight_B1).logsumexp(dim=0)
        if self._contrast:
            mixed_V = mixed_V + self._contrast * (mixed_V - logprob_BV[len(weight_B1)])
        return mixed_V


@dataclass(frozen=True)
class MixedRows:
    """Rows of a batch that generate one answer together.

    Attributes:
        batch: the rows.
        mixture: mixture of their distributions.
    """

    batch: RowBatch
    mixture: Mixture

    def step(self, token: int) -> Tensor:
        """Add a token to every row; return the mixed log-probabilities (V,) of the next one."""
        return self.prefill([token])

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Add token ids to every row; return the mixed log-probabilities (V,) of the next one."""
        return self.mixture(self.batch.prefill(ids)[:, -1])

    def caches(self) -> list[Cache]:
        """Return the cache of each row, in which a token can be added to it alone."""
        return [self.batch.row(row, room=0) for row in range(len(self.batch.tokens))]
