"""Choice of the mode and layout of a prompt, from measurements of model and machine."""

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

# The modes of "auto": they differ in time, not in the quality of the answer.
AUTOMATIC: tuple[RagMode, ...] = ("none", "doc", "query")


class Planner:
    """Plans prompts; measures model and machine once.

    Args:
        model: the model.
        blocks: provider of KV blocks; it knows the missing ones.
        assembler: lays out prompts for the model.
        place: workspace that keeps the measurements; None keeps them in memory only.
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
        """Make the measurements that a mode needs, unless they are known.

        Args:
            mode: mode of reuse.
            checkpoint: checkpoint callback; None where no other work waits for the model.
        """
        if mode == "none":
            return
        if self._checked(checkpoint).holds and mode == "auto":
            self.measured(checkpoint)

    def require_parity(self) -> None:
        """Require that the reuse check holds for this model.

        Raises:
            ModelError: with the measured difference, when it does not hold.
        """
        reuse_check.require(self.parity, name=str(self._model.source))

    @property
    def parity(self) -> ReuseCheck:
        """Result of the reuse check of this model; measured at the first use."""
        return self._checked(None)

    def measured(self, checkpoint: Checkpoint | None = None) -> cost.CostModel:
        """Return the predicted times on this machine, measured at the first use.

        Args:
            checkpoint: checkpoint callback; None where no other work waits for the model.
        """
        if self._cost is None:
            path = None if self._place is None else self._place / "cost.json"
            machine = workspace.machine(self._model)
            self._cost = cost.calibrated(
                self._model.lm, path, machine=machine, checkpoint=checkpoint
            )
        return self._cost

    @property
    def cost(self) -> cost.CostModel:
        """Predicted times on this machine; measured at the first use."""
        return self.measured()

    def _fastest(
        self, question: str, hits: Sequence[Hit], options: AnswerOptions, trace: Trace
    ) -> PromptPlan:
        tokens = options.sampling.max_new_tokens
        if not self.parity.holds:
            trace.reasons.append("none: the key/value state of this model cannot be reused")
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
