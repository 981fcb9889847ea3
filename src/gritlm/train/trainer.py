"""Training loop: both objectives in each step, checkpoints, held-out evaluation."""

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

from gritlm.lm import threads
from gritlm.lm.encoder import TOKEN_BUDGET
from gritlm.lm.gritlm import GritLM
from gritlm.train.config import TrainConfig
from gritlm.train.data import skipped
from gritlm.train.data.collate import Collator
from gritlm.train.data.loader import Batch, BatchShare, Loader
from gritlm.train.data.sources import Dataset
from gritlm.train.model import heads, layers
from gritlm.train.model.build import TrainingParts, build
from gritlm.train.objectives import evaluation
from gritlm.train.objectives.distillation import Teacher
from gritlm.train.objectives.earlier_passages import EarlierPassages
from gritlm.train.objectives.embedding import EmbeddingObjective
from gritlm.train.objectives.generation import GenerationObjective
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.objectives.question import QuestionObjective
from gritlm.train.run import (
    checkpoint,
    collectives,
    metrics_log,
    model_card,
    optim,
    parallel,
    resume,
    sharding,
    staging,
    step_checks,
)
from gritlm.train.run.signals import StopSignal, listening
from gritlm.train.run.whole_model import whole_model, write_merged

log = logging.getLogger(__name__)

Evaluate = Callable[[GritLM], Mapping[str, float]]
Report = Callable[[str], None]

# Tokens whose graphs are in memory together; 1.4 MB each for all layers of the default model.
_BUDGET = {"cpu": 4096, "mps": 4096, "cuda": 16384}
_SKIPPED = 5  # rows of a source that the log names; skipped.jsonl has more
_LINES = 20  # progress lines of a run without a progress bar


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        output_dir: folder of the trained model, checkpoints and metrics.
        steps: number of optimizer steps, including those before a resumption.
        metrics: losses of the last step and results of the final evaluation (``eval/NAME``).
        stopped: whether a signal ended the run early, with a checkpoint to resume from.
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
    stop: StopSignal | None = None,
) -> TrainResult:
    """Train a model; under torchrun, together with the other processes.

    Args:
        run: settings of the run.
        evaluate: function of the current model that returns metrics by name. It is called every
            ``eval_steps`` steps and at the end; ``metrics.jsonl`` has its values as ``eval/NAME``.
            With ``distribution = "fsdp"`` it gets a copy with the gathered weights.
        report: callback for log lines.
        progress: whether to show a progress bar; None: on a terminal only.
        stop: signal to stop that is set elsewhere, e.g. by another process; None: none.

    Returns:
        The output folder, the number of steps and the last metrics.

    Raises:
        InputError: invalid data or settings; raised before anything is written.
        TrainingError: non-finite loss, full disk, or lost process; earlier checkpoints stay whole.
    """
    with parallel.processes(run.training.timeout_s):
        return _train(run, evaluate, report, progress, stop)


def _train(
    run: TrainConfig,
    evaluate: Evaluate | None,
    report: Report,
    progress: bool | None,
    stop: StopSignal | None,
) -> TrainResult:
    """Run in a scope of its own, so that the trainer is freed before the process group."""
    trainer = Trainer(run, evaluate, report, progress=progress)
    with listening(stop) as signal:  # before the first step there is nothing to save
        return trainer.run(signal)


class Trainer:
    """A training run: set up, optionally resumed from a checkpoint, and run to its end."""

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
        self.report = report if parallel.is_main() else _ignore
        self.output = Path(run.training.output_dir)
        start = resume.claim(run)
        state = checkpoint.read_state(start) if start else None
        share = BatchShare(collectives.rank(), collectives.size())
        fixed_settings = resume.settings(run, share.size)
        if start and state:
            resume.require_same(state["settings"], fixed_settings, start)
        whole = start if start and not checkpoint.is_sharded(start) else None
        torch.manual_seed(run.training.seed)
        self.parts = _build(run, whole)
        self.collator = Collator(
            self.parts.tokens,
            self.parts.settings,
            run.data,
            run.rag,
            senses=self.parts.trainee.senses,
        )
        self.loader = Loader(run, self.collator, share)
        self.fixed_settings = fixed_settings
        self.steps = self._count_steps()
        self._set_up(start, state, progress)

    def _set_up(
        self, start: Path | None, state: Mapping[str, Any] | None, bar: bool | None
    ) -> None:
        """Create module, optimizer, schedule and metrics log; restore a checkpoint if given."""
        training = self.settings.training
        self.done = 0
        self.module = parallel.wrapped(self.parts.trainee, training)
        self.optimizer = optim.optimizer(self.module, training)
        self.embedding_objective, self.generation_objective = self._create_objectives()
        self.question_objective = QuestionObjective(
            self.settings.loss, self.generation_objective.budget, self.generation_objective.pad
        )
        self.held_out = evaluation.HeldOutEvaluation(self.settings, self.collator)
        if start and state:
            checkpoint.restore(start, self.module, self.optimizer)
            self.loader.restore(state["feed"])
            self.done = int(state["step"])
        self.first_step = self.done + 1
        if parallel.is_main():  # all inputs are read: nothing below fails for bad input
            resume.prepare(self.settings, done=self.done)
            skipped.write(self.output, self._rows())
        collectives.most(0)  # processes wait until the folder exists
        self.schedule = optim.schedule(self.optimizer, training, steps=self.steps, done=self.done)
        self.metrics = metrics_log.MetricsLog(
            self.output,
            steps=self.steps,
            done=self.done,
            every=training.logging_steps,
            trackers=training.report_to,
            settings=self.fixed_settings,
            bar=bar,
        )
        if number := sum(rows.skipped.count for many in self._rows().values() for rows in many):
            self.metrics.skipped(self.done, number)

    def run(self, stop: StopSignal) -> TrainResult:
        """Run the remaining steps and write the trained model."""
        training = self.settings.training
        values: dict[str, float] = {}
        self._report_start()
        self.parts.trainee.train()
        try:
            for number in range(self.done + 1, self.steps + 1):
                values = self.step(number)
                self.done = number
                if ended := bool(collectives.most(int(stop.asked))) and number < self.steps:
                    self.save()
                    return TrainResult(self.output, number, values, stopped=ended)
                if training.save_steps and number % training.save_steps == 0:
                    self.save()
                if _is_due(number, self.settings.evaluation.eval_steps) and number < self.steps:
                    self.measure()
            measured = self.measure()
            self.finish(measured)
            found = {f"eval/{name}": value for name, value in measured.items()}
            return TrainResult(self.output, self.done, {**values, **found}, stopped=False)
        finally:
            self.metrics.close()

    def step(self, number: int) -> dict[str, float]:
        """Run one optimizer step; return losses, gradient norm and learning rate by name."""
        threads.adjust()
        batch = self.loader.next(number)
        values = self.backward(batch)
        if number == self.first_step:
            step_checks.require_gradients(self.parts.trainee, number)
        norm = optim.clip(self._trained(), self.settings.training.max_grad_norm)
        values |= {"grad_norm": norm, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        sound = all(math.isfinite(value) for value in values.values())
        if collectives.most(int(not sound)):
            step_checks.stop_at_non_finite_loss(
                self.output, number, batch, values, self.parts.tokenizer
            )
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.metrics.step(number, values, tokens=collectives.total(batch.tokens))
        self._report_step(number, values)
        return values

    def backward(self, batch: Batch) -> dict[str, float]:
        """Add the gradients of both objectives; return the losses and their parts by name."""
        # Weights are cast once a step. Sharded ones come and go, and casts would keep them all.
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
                found = self.embedding_objective.backward(
                    partial(self.module, "embed"), batch.embedding, ranks
                )
            values |= _metric_names(found, "emb")
        if self.settings.loss.question_weight and batch.samples:
            values |= self._question_backward(batch, ranks)
        if batch.samples:
            found = self.generation_objective.backward(
                partial(self.module, "write"),
                batch.samples,
                ranks,
                device=self.parts.trainee.device,
            )
            values |= _metric_names(found, "gen")
        terms = ("loss_emb", "loss_gen", "loss_question")
        values["loss"] = sum(values.get(name, 0.0) for name in terms)
        return values

    def _question_backward(self, batch: Batch, ranks: Ranks) -> dict[str, float]:
        """Add the gradients of the question objective, which are averaged with later ones."""
        found = self.question_objective.backward(
            partial(self.module, "score"),
            batch.questions,
            ranks,
            spare=batch.samples[0],
            device=self.parts.trainee.device,
        )
        return _metric_names(found, "question")

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def save(self) -> None:
        """Write a checkpoint, and remove the oldest beyond the limit."""
        training = self.settings.training
        target = self.output / f"checkpoint-{self.done:06d}"
        state = {"step": self.done, "feed": self.loader.state(), "settings": self.fixed_settings}
        checkpoint.save(
            target,
            self.parts,
            self.module,
            self.optimizer,
            state,
            sharded=training.sharded_checkpoints,
        )
        checkpoint.prune(self.output, training.save_total_limit)
        self.report(f"step {self.done}: saved {target}")

    def measure(self) -> dict[str, float]:
        """Return the losses on held-out rows and the metrics of ``evaluate``."""
        with torch.random.fork_rng():  # evaluation must not change the random numbers of training
            found = self._evaluate()
        if found:
            self.metrics.evaluation(self.done, found)
            self.report(f"step {self.done}: {_format_metrics(found)}")
        return found

    def _evaluate(self) -> dict[str, float]:
        trainee = self.parts.trainee.eval()
        found = self.held_out.losses(
            self.module, self.embedding_objective, self.generation_objective
        )
        if self.evaluate is not None:
            with whole_model(self.parts, self.module) as model, torch.inference_mode():
                found |= {} if model is None else self.evaluate(model)
        collectives.most(0)
        trainee.train()
        return dict(found)

    def finish(self, measured: Mapping[str, float]) -> None:
        """Write the trained model, its model card and the plot of its losses."""
        state = checkpoint.whole_weights(self.module)
        rows = self.loader.rows

        def write(work: Path) -> None:
            if not parallel.is_main():
                return
            merged = self.settings.training.save_merged and self.parts.trainee.adapted
            if merged and state is not None:
                write_merged(work, self.parts, state)
            else:
                checkpoint.write_model(work, self.parts, state, merged=merged)
            metrics_log.plot(self.output)
            model_card.write(
                work,
                self.settings,
                sources=rows,
                steps=self.done,
                metrics=measured,
                skipped=self.loader.skipped,
                folder=self.output,
            )

        staging.adding(self.output, write)
        if self.loader.skipped:
            self.report(f"{self.loader.skipped} rows had nothing to train within their length")
        self.report(f"trained: {self.output}")

    def _create_objectives(self) -> tuple[EmbeddingObjective, GenerationObjective]:
        run = self.settings
        trainee = self.parts.trainee
        most = _BUDGET.get(trainee.device.type, _BUDGET["cpu"])
        share = 1.0 if trainee.trains_towers else layers.graph_share(trainee.decoder)
        budget = run.training.token_budget or int(most / share)
        teacher = run.loss.teacher if run.embeds else None
        earlier = run.loss.earlier_passages
        at_once = min(budget, _mini_batch_tokens(trainee.device))
        embedding = EmbeddingObjective(
            run.loss,
            budget,
            at_once,
            mask=run.data.mask_false_negatives,
            teacher=None if teacher is None else Teacher(teacher, device=trainee.device),
            earlier=EarlierPassages(earlier) if earlier else None,
        )
        generation = GenerationObjective(
            run.loss,
            at_once,
            capacity=run.data.generative_max_len if run.training.packing else None,
            router=heads.router_weight(trainee.causal),
            pad=self.parts.tokenizer.pad_token_id or 0,
        )
        return embedding, generation

    def _count_steps(self) -> int:
        training = self.settings.training
        return training.max_steps or max(
            1, round(training.num_train_epochs * self.loader.steps_per_epoch)
        )

    def _report_start(self) -> None:
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
                f"mode = {self.settings.training.mode!r} uses no LM head, so "
                f"{', '.join(self.parts.unread)} of the adapter are not trained"
            )
        left = self.steps - self.done
        self.report(
            f"{left} step{'' if left == 1 else 's'}, {trained:,} trained parameters on "
            f"{collectives.size()} x {self.parts.trainee.device}, to {self.output}"
        )

    def _rows(self) -> dict[str, list[Dataset]]:
        """Return the sources of all streams, held-out ones too."""
        return {**self.loader.rows, **self.held_out.rows}

    def _report_step(self, number: int, values: Mapping[str, float]) -> None:
        if not self.metrics.has_bar and number % max(1, self.steps // _LINES) == 0:
            self.report(f"step {number} of {self.steps}: {_format_metrics(values)}")


def _build(run: TrainConfig, weights: Path | None) -> TrainingParts:
    """Load the model in every process, or in one that shards it over all of them."""
    if parallel.shards(run.training):
        return sharding.build_sharded(run, weights=weights)
    return build(run, device=parallel.local_device(run.training), weights=weights)


def _mini_batch_tokens(device: torch.device) -> int:
    """Return the tokens of a mini-batch: few on a CPU (small caches), else as memory allows."""
    return TOKEN_BUDGET["cpu"] if device.type == "cpu" else _BUDGET["cuda"]


def _metric_names(values: Mapping[str, float], objective: str) -> dict[str, float]:
    """Return losses by metric name: ``loss_emb`` in total, ``loss_emb/contrastive`` for a part."""
    return {
        f"loss_{objective}" if name == objective else f"loss_{objective}/{name}": value
        for name, value in values.items()
    }


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _format_metrics(values: Mapping[str, float]) -> str:
    whole = {k: v for k, v in values.items() if "/" not in k or not k.startswith("loss_")}
    return ", ".join(f"{name} {value:.4g}" for name, value in whole.items())


def _ignore(line: str) -> None:
    """Ignore a log line: only the main process reports."""
    del line
