"""Question and passages -> the plan of a prompt, in the mode asked for or the fastest one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gritlm.lm.gritlm import GritLM
from gritlm.prompts import RagMode
from gritlm.rag import cost, workspace
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.options import AnswerOptions, Mode
from gritlm.rag.plan import PromptAssembler, PromptPlan
from gritlm.rag.reuse import reuse_check
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.reuse.recompute import expected
from gritlm.rag.reuse.reuse_check import ReuseCheck
from gritlm.rag.trace import Trace
from gritlm.rag.types import Hit

# What "auto" chooses from: modes in which the answer is no worse, only later or sooner.
AUTOMATIC: tuple[RagMode, ...] = ("none", "doc", "query")


class Planner:
    """Plans prompts; what it has to know about model and machine it measures once.

    Args:
        place: folder where that is kept; None keeps nothing.
    """

    def __init__(
        self, model: GritLM, blocks: BlockProvider, assembler: PromptAssembler, place: Path | None
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._place = place
        self._assembler = assembler
        self._parity: ReuseCheck | None = None
        self._cost: cost.CostModel | None = None

    def plan(
        self, question: str, hits: Sequence[Hit], options: AnswerOptions, trace: Trace
    ) -> PromptPlan:
        """Return the prompt of an answer.

        Args:
            question: the question.
            hits: passages to answer from, the best first.
            options: mode, kind of blocks, recomputed tokens and length of the answer.
            trace: takes the reasons of ``auto``.

        Raises:
            ModelError: when the mode reuses state and reuse fails its check with this model.
            InputError: when the question does not fit.
        """
        if options.mode == "auto":
            return self._fastest(question, hits, options, trace)
        if options.mode != "none":
            self.require_parity()
        tokens = options.sampling.max_new_tokens
        return self._assembler.plan(options.mode, question, hits, max_new_tokens=tokens)

    def prepare(self, mode: Mode, checkpoint: Checkpoint | None) -> None:
        """Measure what a mode has to know, if nobody did before.

        Args:
            checkpoint: called now and then, for who shares the model's thread.
        """
        if mode == "none":
            return
        if self._checked(checkpoint).holds and mode == "auto":
            self.measured(checkpoint)

    def require_parity(self) -> None:
        """Refuse a model that does not reuse right.

        Raises:
            ModelError: with the measured difference.
        """
        reuse_check.require(self.parity, name=str(self._model.source))

    @property
    def parity(self) -> ReuseCheck:
        """Whether this model's blocks are what they stand for."""
        return self._checked(None)

    def measured(self, checkpoint: Checkpoint | None = None) -> cost.CostModel:
        """What modes take on this machine.

        Args:
            checkpoint: called now and then, for who shares the model's thread.
        """
        if self._cost is None:
            path = None if self._place is None else self._place / "cost.json"
            about = workspace.machine(self._model)
            self._cost = cost.calibrated(self._model.lm, path, about=about, checkpoint=checkpoint)
        return self._cost

    @property
    def cost(self) -> cost.CostModel:
        """As :meth:`measured`."""
        return self.measured()

    def _fastest(
        self, question: str, hits: Sequence[Hit], options: AnswerOptions, trace: Trace
    ) -> PromptPlan:
        tokens = options.sampling.max_new_tokens
        if not self.parity.holds:
            trace.reasons.append("none: this model's state cannot be reused")
            return self._assembler.plan("none", question, hits, max_new_tokens=tokens)
        predictions: list[tuple[float, PromptPlan]] = []
        for mode in AUTOMATIC:
            plan = self._assembler.plan(mode, question, hits, max_new_tokens=tokens)
            missing = self._blocks.missing(plan.parts, causal=options.blocks == "causal")
            sizes = [part.tokens for part in plan.parts]
            again = expected(options.recompute, sizes=sizes, tail=len(plan.ids))
            seconds = self.cost.first_token(plan, missing=missing, again=again)
            predictions.append((seconds, plan))
        trace.reasons += [
            f"{plan.mode}: {1000 * seconds:.0f} ms predicted" for seconds, plan in predictions
        ]
        return min(predictions, key=lambda pair: pair[0])[1]

    def _checked(self, checkpoint: Checkpoint | None) -> ReuseCheck:
        if self._parity is None:
            bos = self._assembler.prefix
            self._parity = workspace.parity(
                self._model, self._place, bos=bos, checkpoint=checkpoint
            )
        return self._parity
