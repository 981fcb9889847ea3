"""The trainer: both objectives, one step after the other, nothing hidden."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gritlm.errors import InputError
from gritlm.lm.encoder import TOKEN_BUDGET
from gritlm.lm.gritlm import GritLM
from gritlm.train.config import TrainConfig
from gritlm.train.data import skipped
from gritlm.train.data.collate import Collator
from gritlm.train.data.loader import Batch, BatchShare, Loader
from gritlm.train.data.sources import Dataset
from gritlm.train.model import routers
from gritlm.train.model.build import build
from gritlm.train.objectives import evaluation
from gritlm.train.objectives.distillation import Teacher
from gritlm.train.objectives.embedding import EmbeddingObjective
from gritlm.train.objectives.generation import GenerationObjective
from gritlm.train.run import (
    checkpoint,
    collectives,
    gradient_check,
    metrics_log,
    model_card,
    non_finite,
    optim,
    parallel,
    resume,
    staging,
)
from gritlm.train.run.signals import StopSignal, listening

log = logging.getLogger(__name__)

Evaluate = Callable[[GritLM], Mapping[str, float]]
Report = Callable[[str], None]

# Tokens whose graphs are in memory at once; 1.4 MB each for the default model.
_BUDGET = {"cpu": 4096, "mps": 4096, "cuda": 16384}
_SKIPPED = 5  # rows of a source that the log names; skipped.jsonl has more
_LINES = 20  # said over a run where no bar is shown


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        steps: optimizer steps done, those before a resumption included.
        metrics: losses of the last step, and what was measured at the end.
        stopped: ended early by a signal, with a checkpoint to go on from.
    """

    output_dir: Path
    steps: int
    metrics: dict[str, float]
    stopped: bool


def train(
    run: TrainConfig,
    *,
    evaluate: Evaluate | None = None,
    report: Report = log.info,
    progress: bool | None = None,
) -> TrainResult:
    """Train as ``run`` says; under torchrun, together with the other processes.

    Args:
        evaluate: called every ``eval_steps`` steps and at the end with the model as it is; what it
            measures stands in the journal as ``eval/NAME``. Not with ``distribution = "fsdp"``.
        report: called with a line on what is done.
        progress: show a bar; None: on a terminal.

    Raises:
        InputError: for data or settings that cannot be used, before anything is written.
        TrainingError: when losses are no numbers, the disk is full, or a process is gone; what was
            saved before is whole.
    """
    with parallel.processes(run.training.timeout_s):
        return _train(run, evaluate, report, progress)


def _train(
    run: TrainConfig, evaluate: Evaluate | None, report: Report, progress: bool | None
) -> TrainResult:
    """A function of its own, so that the trainer is gone before the group of processes is."""
    trainer = Trainer(run, evaluate, report, progress=progress)
    with listening() as stop:  # before the first step there is nothing to save
        return trainer.run(stop)


class Trainer:
    """One run: made, gone on from a checkpoint if wanted, and run to its end."""

    def __init__(
        self,
        run: TrainConfig,
        evaluate: Evaluate | None = None,
        report: Report = log.info,
        *,
        progress: bool | None = None,
    ) -> None:
        self.settings = run
        self.evaluate = evaluate
        self.report = report if parallel.is_main() else _silent
        self.output = Path(run.training.output_dir)
        start = resume.claim(run)
        state = checkpoint.read_state(start) if start else None
        share = BatchShare(collectives.rank(), collectives.size())
        agreed = resume.settings(run, share.size)
        if start and state:
            resume.require_same(state["settings"], agreed, start)
        whole = start if start and not checkpoint.is_sharded(start) else None
        torch.manual_seed(run.training.seed)
        self.parts = build(run, device=parallel.local_device(run.training), weights=whole)
        self.collator = Collator(self.parts.tokens, self.parts.settings, run.data, run.rag)
        self.feed = Loader(run, self.collator, share)
        self.agreed = agreed
        self.steps = self._count()
        self._make(start, state, progress)

    def _make(self, start: Path | None, state: Mapping[str, Any] | None, bar: bool | None) -> None:
        """Module, optimizer, schedule and journal; as they were at a checkpoint."""
        said = self.settings.training
        self.done = 0
        self.module = parallel.wrapped(self.parts.trainee, said, bf16=self.parts.bf16)
        if parallel.is_sharded(self.module):
            self._require_whole_weights_unneeded()
        self.optimizer = optim.optimizer(self.module, said)
        self.contrast, self.writing = self._halves()
        self.held_out = evaluation.HeldOutEvaluation(self.settings, self.collator)
        if start and state:
            checkpoint.restore(start, self.module, self.optimizer)
            self.feed.restore(state["feed"])
            self.done = int(state["step"])
        self.started = self.done
        if parallel.is_main():  # what could fail has been read by now
            resume.prepare(self.settings, done=self.done)
            skipped.write(self.output, self._rows())
        collectives.most(0)  # nobody goes on before the folder is there
        self.schedule = optim.schedule(self.optimizer, said, steps=self.steps, done=self.done)
        self.journal = metrics_log.MetricsLog(
            self.output,
            steps=self.steps,
            done=self.done,
            every=said.logging_steps,
            trackers=said.report_to,
            settings=self.agreed,
            bar=bar,
        )
        if number := sum(rows.skipped.count for many in self._rows().values() for rows in many):
            self.journal.skipped(self.done, number)

    def _require_whole_weights_unneeded(self) -> None:
        if self.evaluate is not None:
            raise InputError("evaluate= wants whole weights; use distribution = 'ddp' with it")
        if self.settings.training.save_merged:
            raise InputError(
                "[training]: save_merged wants whole weights; with distribution = 'fsdp' save the "
                "adapter, and merge it with GritLM(folder).save_pretrained(other)"
            )
        if self.settings.model.qlora:
            raise InputError("[model]: qlora weights cannot be spread; use distribution = 'ddp'")

    def run(self, stop: StopSignal) -> TrainResult:
        """All steps that are left, then the trained model."""
        said = self.settings.training
        values: dict[str, float] = {}
        self._introduce()
        self.parts.trainee.train()
        try:
            for number in range(self.done + 1, self.steps + 1):
                values = self.step(number)
                self.done = number
                if ended := bool(collectives.most(int(stop.asked))) and number < self.steps:
                    self.save()
                    return TrainResult(self.output, number, values, stopped=ended)
                if said.save_steps and number % said.save_steps == 0:
                    self.save()
                if _due(number, self.settings.evaluation.eval_steps) and number < self.steps:
                    self.measure()
            measured = self.measure()
            self.finish(measured)
            found = {f"eval/{name}": value for name, value in measured.items()}
            return TrainResult(self.output, self.done, {**values, **found}, stopped=False)
        finally:
            self.journal.close()

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step; its losses, the norm of its gradient, its learning rate."""
        batch = self.feed.next(number)
        values = self.backward(batch)
        if number == self.started + 1:
            gradient_check.require_gradients(self.parts.trainee, number)
        norm = optim.clip(self._trained(), self.settings.training.max_grad_norm)
        values |= {"grad_norm": norm, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        sound = all(math.isfinite(value) for value in values.values())
        if collectives.most(int(not sound)):
            non_finite.write_down(self.output, number, batch, values, self.parts.tokenizer)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.journal.step(number, values, tokens=collectives.total(batch.tokens))
        self._say(number, values)
        return values

    def backward(self, batch: Batch) -> dict[str, float]:
        """Add the gradients of both halves; their losses and the parts of these by name."""
        # Weights are cast once a step; but spread ones come and go, and casts would keep them all.
        spread = parallel.is_sharded(self.module)
        with nullcontext() if spread else self.parts.trainee.casting():
            return self._backward(batch)

    def _backward(self, batch: Batch) -> dict[str, float]:
        unsynced = partial(parallel.unsynced, self.module)
        ranks = collectives.ranks(unsynced)
        values: dict[str, float] = {}
        if batch.embedding is not None:
            # Gradients are averaged in the last backward pass of the step only.
            with unsynced() if batch.samples else nullcontext():
                found = self.contrast.backward(
                    partial(self.module, "embed"), batch.embedding, ranks
                )
            values |= _named(found, "emb")
        if batch.samples:
            found = self.writing.backward(
                partial(self.module, "write"),
                batch.samples,
                ranks,
                device=self.parts.trainee.device,
            )
            values |= _named(found, "gen")
        values["loss"] = sum(values.get(name, 0.0) for name in ("loss_emb", "loss_gen"))
        return values

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def save(self) -> None:
        """Write a checkpoint, and remove the oldest beyond the limit."""
        said = self.settings.training
        target = self.output / f"checkpoint-{self.done:06d}"
        state = {"step": self.done, "feed": self.feed.state(), "settings": self.agreed}
        checkpoint.save(
            target, self.parts, self.module, self.optimizer, state, sharded=said.sharded_checkpoints
        )
        checkpoint.prune(self.output, said.save_total_limit)
        self.report(f"step {self.done}: saved {target}")

    def measure(self) -> dict[str, float]:
        """Losses on held-out rows, and what the function handed in finds."""
        with torch.random.fork_rng():  # a run that is measured draws what an unmeasured one does
            found = self._measured()
        if found:
            self.journal.evaluation(self.done, found)
            self.report(f"step {self.done}: {_shown(found)}")
        return found

    def _measured(self) -> dict[str, float]:
        trainee = self.parts.trainee.eval()
        found = self.held_out.losses(self.module, self.contrast, self.writing)
        if self.evaluate is not None and parallel.is_main():
            settings = self.parts.settings
            head = trainee.projection
            model = GritLM.around(trainee.causal, self.parts.tokenizer, settings, head)
            with torch.inference_mode():
                found |= self.evaluate(model)
        collectives.most(0)
        trainee.train()
        return dict(found)

    def finish(self, measured: Mapping[str, float]) -> None:
        """The trained model, its card and the plot of its losses."""
        state = checkpoint.whole_weights(self.module)
        rows = self.feed.rows

        def write(work: Path) -> None:
            if not parallel.is_main():
                return
            merged = self.settings.training.save_merged
            checkpoint.write_model(work, self.parts, state, merged=merged)
            metrics_log.plot(self.output)
            model_card.write(
                work,
                self.settings,
                sources=rows,
                steps=self.done,
                metrics=measured,
                skipped=self.feed.skipped,
                folder=self.output,
            )

        staging.adding(self.output, write)
        if self.feed.skipped:
            self.report(f"{self.feed.skipped} rows had nothing to train within their length")
        self.report(f"trained: {self.output}")

    def _halves(self) -> tuple[EmbeddingObjective, GenerationObjective]:
        said = self.settings
        trainee = self.parts.trainee
        budget = said.training.token_budget or _BUDGET.get(trainee.device.type, _BUDGET["cpu"])
        teacher = said.loss.teacher if said.embeds else None
        at_once = min(budget, _at_once(trainee.device))
        contrast = EmbeddingObjective(
            said.loss,
            budget,
            at_once,
            mask=said.data.mask_false_negatives,
            teacher=None if teacher is None else Teacher(teacher, device=trainee.device),
        )
        writing = GenerationObjective(
            said.loss,
            at_once,
            capacity=said.data.generative_max_len if said.training.packing else None,
            router=routers.share(trainee.causal),
            pad=self.parts.tokenizer.pad_token_id or 0,
        )
        return contrast, writing

    def _count(self) -> int:
        said = self.settings.training
        return said.max_steps or max(1, round(said.num_train_epochs * self.feed.steps_per_epoch))

    def _introduce(self) -> None:
        trained = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        for stream, many in self._rows().items():
            for rows in many:
                left_out = f", {rows.duplicates} duplicates left out" if rows.duplicates else ""
                left_out += f", {rows.skipped.count} skipped" if rows.skipped.count else ""
                self.report(f"{stream}: {rows.title}, {len(rows)} rows{left_out}")
                for line in skipped.lines(rows, most=_SKIPPED):
                    self.report(line)
        if self.parts.unread:
            self.report(
                f"mode = {self.settings.training.mode!r} reads no LM head, so "
                f"{', '.join(self.parts.unread)} of the adapter are not trained"
            )
        left = self.steps - self.done
        self.report(
            f"{left} step{'' if left == 1 else 's'}, {trained:,} trained parameters on "
            f"{collectives.size()} x {self.parts.trainee.device}, to {self.output}"
        )

    def _rows(self) -> dict[str, list[Dataset]]:
        """Return the sources of all streams, held-out ones too."""
        return {**self.feed.rows, **self.held_out.rows}

    def _say(self, number: int, values: Mapping[str, float]) -> None:
        if not self.journal.has_bar and number % max(1, self.steps // _LINES) == 0:
            self.report(f"step {number} of {self.steps}: {_shown(values)}")


def _at_once(device: torch.device) -> int:
    """Tokens of a mini-batch: few on a CPU, whose caches are small; else what memory allows."""
    return TOKEN_BUDGET["cpu"] if device.type == "cpu" else _BUDGET["cuda"]


def _named(found: Mapping[str, float], half: str) -> dict[str, float]:
    """``loss_emb`` for the whole of a half, ``loss_emb/contrastive`` for a part of it."""
    return {
        f"loss_{half}" if name == half else f"loss_{half}/{name}": value
        for name, value in found.items()
    }


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _shown(values: Mapping[str, float]) -> str:
    whole = {k: v for k, v in values.items() if "/" not in k or not k.startswith("loss_")}
    return ", ".join(f"{name} {value:.4g}" for name, value in whole.items())


def _silent(line: str) -> None:
    """Only the main process talks."""
    del line
