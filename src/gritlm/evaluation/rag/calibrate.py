"""Calibration of the fusion of passages, on questions whose right passages are known.

Each question is read behind each of its documents alone, as by an answer with fusion ``sequence``.
The weight of the cosine and the margin are those with which the right document is chosen most
often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from tqdm import tqdm

from gritlm.errors import InputError, ModelError
from gritlm.evaluation.rag import questions as rows
from gritlm.evaluation.rag.questions import Question
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.prompts import gritlm_instruction
from gritlm.rag.fusion import read_question
from gritlm.rag.plan import PromptAssembler
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.rag.types import Hit, Passage

WEIGHTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
MARGINS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)
LOSS = 0.005  # share of right choices that a smaller margin may cost: it reads fewer passages
MISSED = 0.05  # share of answerable questions that may be taken for unanswerable ones
_FEWEST = 20  # questions


@dataclass(frozen=True)
class ScoredQuestion:
    """Scores of the documents of one question.

    Attributes:
        cosines: cosine of question and document.
        likelihoods: mean log-probability of the question behind each document.
        alone: mean log-probability of the question without document.
        right: whether each document holds the answer.
    """

    cosines: tuple[float, ...]
    likelihoods: tuple[float, ...]
    alone: float
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        settings: the settings, for ``fusion`` in ``gritlm.json``.
        questions: number of questions.
        right: share of questions for which the right document was chosen.
        right_by_cosine: the same share by cosine alone.
        passages: mean number of passages read for a question.
        absent_found: share of questions that are recognised as unanswerable when their right
            documents are taken away.
    """

    settings: FusionSettings
    questions: int
    right: float
    right_by_cosine: float
    passages: float
    absent_found: float


def calibrate(
    model: GritLM,
    folder: Path,
    *,
    blocks: str = "causal",
    limit: int | None = None,
    progress: bool = False,
) -> Calibration:
    """Choose the fusion settings of a model on a local question-answering task.

    Args:
        model: a model that embeds and generates.
        folder: folder of the task; its questions have right and wrong documents.
        blocks: kind of the KV blocks, ``causal`` or ``bidirectional``.
        limit: number of questions; None for all.
        progress: whether to show a progress bar.

    Raises:
        InputError: for a folder that is no task, or too few questions with a wrong document.
        ModelError: for a model without an LM head.
    """
    if not model.lm.has_head:
        raise ModelError(f"{model.source} was loaded without its LM head; use mode='unified'")
    model.require_embedding()
    found = rows.load(folder, limit=limit, bad=BadRows())
    usable = [question for question in found if set(question.documents) - set(question.gold)]
    if len(usable) < _FEWEST:
        raise InputError(
            f"{folder} has {len(usable)} questions with a right and a wrong document; expected "
            f"{_FEWEST} or more"
        )
    scorer = _Scorer(model, causal=blocks == "causal")
    bar = tqdm(usable, desc="calibration", disable=not progress, leave=False)
    scored = [each for question in bar if any((each := scorer.score(question)).right)]
    if len(scored) < _FEWEST:
        raise InputError(
            f"{folder}: the right document of {len(scored)} questions could be read; expected "
            f"{_FEWEST} or more, so shorten the documents or their lists"
        )
    return choose(scored)


class _Scorer:
    """Scores the documents of questions with one model."""

    def __init__(self, model: GritLM, *, causal: bool) -> None:
        self._model = model
        self._causal = causal
        self._assembler = PromptAssembler(model)

    @torch.inference_mode()
    def score(self, question: Question) -> ScoredQuestion:
        model = self._model
        hits = [
            Hit(Passage(str(number), "", "", text, number, 0, len(text)), 0.0, number)
            for number, text in enumerate(question.documents, start=1)
        ]
        plans = self._assembler.rows(question.text, hits, max_new_tokens=1)
        texts = [plan.hits[0].passage.text for plan in plans]
        span = plans[0].question_span
        blocks = blocks_of(model.lm, [plan.parts[0].ids for plan in plans], causal=self._causal)
        batch = RowBatch(model.lm, [*blocks, None], room=span[1])
        *likelihoods, alone = read_question(batch, plans[0].ids, span)
        return ScoredQuestion(
            cosines=tuple(self._cosines(question.text, texts)),
            likelihoods=tuple(likelihoods),
            alone=alone,
            right=tuple(text in question.gold for text in texts),
        )

    def _cosines(self, question: str, texts: Sequence[str]) -> list[float]:
        model = self._model
        limit = model.lm.max_positions or 1 << 20
        instruction = gritlm_instruction(model.settings.query_instruction)
        query_1D = model.encode(
            [question], instruction=instruction, max_length=limit, show_progress_bar=False
        )
        text_ND = model.encode(
            list(texts),
            instruction=gritlm_instruction(),
            max_length=limit,
            show_progress_bar=False,
        )
        found: list[float] = model.similarity(query_1D, text_ND)[0].tolist()
        return found


def choose(scored: Sequence[ScoredQuestion]) -> Calibration:
    """Return the settings with which the right document is chosen most often.

    Of equally good weights the one in the middle is taken; of margins, the smallest one that costs
    at most :data:`LOSS` right choices.
    """
    shares = [_share_right(scored, weight, MARGINS[-1]) for weight in WEIGHTS]
    best = [weight for weight, share in zip(WEIGHTS, shares, strict=True) if share == max(shares)]
    weight = best[len(best) // 2]
    margin = next(
        each for each in MARGINS if _share_right(scored, weight, each) >= max(shares) - LOSS
    )
    absent = float(np.quantile([_gain(each, each.right) for each in scored], MISSED))
    without = [_gain(each, [not right for right in each.right]) for each in scored]
    return Calibration(
        settings=FusionSettings(weight, margin, round(absent, 3)),
        questions=len(scored),
        right=_share_right(scored, weight, margin),
        right_by_cosine=fmean(each.right[int(np.argmax(each.cosines))] for each in scored),
        passages=fmean(sum(_near(each, margin)) for each in scored),
        absent_found=fmean(gain < absent for gain in without),
    )


def _share_right(scored: Sequence[ScoredQuestion], weight: float, margin: float) -> float:
    return fmean(each.right[_chosen(each, weight, margin)] for each in scored)


def _chosen(scored: ScoredQuestion, weight: float, margin: float) -> int:
    near = _near(scored, margin)
    candidates = [row for row in range(len(near)) if near[row]]
    return max(candidates, key=lambda row: scored.likelihoods[row] + weight * scored.cosines[row])


def _near(scored: ScoredQuestion, margin: float) -> list[bool]:
    least = max(scored.cosines) - margin
    return [cosine >= least for cosine in scored.cosines]


def _gain(scored: ScoredQuestion, among: Sequence[bool]) -> float:
    """Return the gain in likelihood by the best of some documents over none."""
    found = [each for each, kept in zip(scored.likelihoods, among, strict=True) if kept]
    return max(found, default=scored.alone) - scored.alone
