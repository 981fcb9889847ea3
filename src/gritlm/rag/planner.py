"""Prompts of an answer: one for all passages, or one for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.rag import workspace
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.fusion import Fusion
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import MOST_ROWS, PromptAssembler, PromptPlan
from gritlm.rag.reuse import reuse_check
from gritlm.rag.reuse.reuse_check import ReuseCheck
from gritlm.rag.types import Hit


@dataclass(frozen=True)
class AnswerPlan:
    """The prompts of an answer.

    Attributes:
        fusion: use of several passages.
        rows: prompt of each passage, the best first; for ``joint`` the only prompt.
        contrasts: whether a row without passage takes part in the answer.
    """

    fusion: Fusion
    rows: tuple[PromptPlan, ...]
    contrasts: bool = False

    @property
    def sequences(self) -> int:
        """Number of rows that generate the answer together."""
        return len(self.rows) + self.contrasts if self.fusion == "token" else 1

    @property
    def tokens(self) -> int:
        """Number of tokens of all prompts."""
        return sum(row.tokens for row in self.rows)

    @property
    def dropped(self) -> tuple[Hit, ...]:
        """Passages that do not fit."""
        return self.rows[0].dropped


class Planner:
    """Plans prompts; checks the model once.

    Args:
        model: the model.
        assembler: lays out prompts for the model.
        place: workspace that keeps the result of the reuse check; None keeps it in memory only.
    """

    def __init__(self, model: GritLM, assembler: PromptAssembler, place: Path | None) -> None:
        self._model = model
        self._place = place
        self._assembler = assembler
        self._parity: ReuseCheck | None = None
        self._may_reuse = False

    def plan(self, question: str, hits: Sequence[Hit], options: AnswerOptions) -> AnswerPlan:
        """Return the prompts of an answer.

        Args:
            question: the question.
            hits: passages to answer from, the best first.
            options: fusion, mode and length of the answer.

        Raises:
            ModelError: when the mode reuses state and reuse fails its check with this model.
            InputError: when the question does not fit.
        """
        if options.mode != "none":
            self.require_parity()
        tokens = options.sampling.max_new_tokens
        fusion = options.fuses
        if fusion == "joint":
            plan = self._assembler.plan(options.mode, question, hits, max_new_tokens=tokens)
            return AnswerPlan(fusion, (plan,))
        read = candidates(hits, self._model.settings.fusion, fusion=fusion, margin=options.margin)
        rows = self._assembler.rows(question, read, max_new_tokens=tokens)
        rows = [replace(row, mode=options.mode) for row in rows]
        return AnswerPlan(fusion, tuple(rows), contrasts=options.contrast > 0)

    def require_parity(self) -> None:
        """Require that the reuse check holds for this model.

        Raises:
            ModelError: with the measured difference, when it does not hold.
        """
        if not self._may_reuse:
            reuse_check.require(self.parity, name=str(self._model.source))
            self._may_reuse = True

    @property
    def parity(self) -> ReuseCheck:
        """Result of the reuse check of this model; measured at the first use."""
        return self.checked(None)

    def checked(self, checkpoint: Checkpoint | None) -> ReuseCheck:
        """Return the result of the reuse check, measured at the first use.

        Args:
            checkpoint: checkpoint callback; None where no other work waits for the model.
        """
        if self._parity is None:
            bos = self._assembler.prefix
            self._parity = workspace.parity(
                self._model, self._place, bos=bos, checkpoint=checkpoint
            )
        return self._parity


def candidates(
    hits: Sequence[Hit], settings: FusionSettings | None, *, fusion: Fusion, margin: float | None
) -> list[Hit]:
    """Return the passages to read, the best first; at most ``MOST_ROWS``.

    The first one is always read: it may have been put there by words or by reranking.

    Args:
        hits: passages, the best first.
        settings: calibration of the model; None without one: ``sequence`` reads the first passage.
        fusion: ``sequence`` or ``token``.
        margin: largest distance of a cosine from the best one; None for that of the calibration.
    """
    if fusion == "sequence" and settings is None:
        return list(hits[:1])
    if margin is None:
        margin = settings.margin if settings is not None else float("inf")
    best = max(hit.score for hit in hits)
    near = [hit for hit in hits[1:] if hit.score >= best - margin]
    return [hits[0], *near][:MOST_ROWS]
