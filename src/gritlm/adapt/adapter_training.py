"""Training of the adapter, on both objectives, with the settings that follow from the model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from gritlm import atomic
from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.rows.training_rows import ANSWERS, CHATS, PAIRS
from gritlm.adapt.run_folder import RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.train.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    RagConfig,
    SourceConfig,
    TrainConfig,
    TrainingConfig,
)
from gritlm.train.model.layers import layer_names
from gritlm.train.run import checkpoint, metrics_log
from gritlm.train.trainer import TrainResult, train

FILE = "training.json"
ADAPTER = "../adapter_model.safetensors"  # relative to the files of the steps
_EARLIER = 4096  # passages of earlier steps, which are negatives without a pass of the model
_PASSES = 2  # over the pairs, at most
_FEWEST_STEPS = 4
_MEASURED = 3  # steps whose time is measured; the first is not representative
_SAVED = 10  # checkpoints of a run; only the last one is kept
_QUERY_TOKENS = 96
_ANSWER_TOKENS = 96  # of question and answer of a RAG sample


@dataclass(frozen=True)
class ModelFacts:
    """Facts about the model that is adapted, known without its weights.

    Attributes:
        dimension: size of its vectors.
        instruction: instruction of its queries, as plain text.
        causal: whether it embeds causally, so that its blocks are causal ones only.
        movable: whether its keys can be moved, so that it answers from cached passages.
        longest: most tokens that it takes; None for no limit.
        layers: names of its layers from the lowest one, as ``freeze`` takes them.
    """

    dimension: int
    instruction: str
    causal: bool
    movable: bool
    longest: int | None
    layers: tuple[str, ...] = ()

    @classmethod
    def of(cls, starting: StartingModel) -> ModelFacts:
        """Return the facts about a model, which is loaded if it is not."""
        model = starting.model
        return cls(
            dimension=model.embedding_dimension,
            instruction=model.settings.query_instruction,
            causal=model.settings.embeds_causally,
            movable=model.lm.rope() is not None,
            longest=model.lm.max_positions,
            layers=layer_names(model.lm.decoder),
        )


def training_config(config: AdaptConfig, folder: RunFolder, facts: ModelFacts) -> TrainConfig:
    """Return the settings of the training run, without its number of steps.

    Args:
        config: settings of the adaptation.
        folder: folder of the run, with the files of rows.
        facts: facts about the model.
    """
    pairs = len(folder.read(PAIRS))
    answers = facts.movable and bool(folder.path(ANSWERS).stat().st_size)
    documents = 1 + min(1, config.negatives)
    sample = documents * config.max_tokens + _ANSWER_TOKENS
    kl = 0.0 if "kl" in config.without else config.kl_weight
    rag = (SourceConfig(str(folder.path(ANSWERS)), weight=3.0),) if answers else ()
    chats = config.chats or str(folder.path(CHATS))
    return TrainConfig(
        model=ModelConfig(
            base=config.model,
            lora=True,
            lora_r=config.lora_r,
            lora_alpha=2 * config.lora_r,
            freeze=facts.layers[: int(config.frozen * len(facts.layers))],
        ),
        data=DataConfig(
            embedding=(SourceConfig(str(folder.path(PAIRS)), instruction=facts.instruction),),
            generative=(SourceConfig(chats, weight=1.0),),
            rag=rag,
            query_max_len=_QUERY_TOKENS,
            passage_max_len=config.max_tokens,
            generative_max_len=min(sample, facts.longest or sample),
            train_group_size=1 + config.negatives,
            skip_bad_rows=True,
        ),
        loss=LossConfig(
            temperature=0.03,
            earlier_passages=0 if "negatives" in config.without else _EARLIER,
            matryoshka_dims=matryoshka_dims(facts.dimension),
            loss_gen_type="sample",
            kl_weight=kl,
            rag_kl_weight=kl if answers else 0.0,
        ),
        rag=RagConfig(
            modes=("none", "doc", "doc", "doc"),
            blocks=("causal",) if facts.causal else ("causal", "causal", "bidirectional"),
            max_documents=documents,
        ),
        training=TrainingConfig(
            output_dir=str(folder.root),
            per_device_train_batch_size=min(config.batch_size, pairs),
            per_device_generative_bs=config.generative_batch_size,
            packing=False,
            learning_rate=config.learning_rate,
            save_total_limit=1,
            seed=config.seed,
            device=config.device,
        ),
    )


def matryoshka_dims(dimension: int) -> tuple[int, ...]:
    """Return the sizes of vectors that are trained: all of it, a half, and a quarter."""
    return tuple(dict.fromkeys(max(1, dimension // part) for part in (1, 2, 4)))


def step_seconds(run: TrainConfig, *, progress: bool | None = False) -> float:
    """Return the seconds of a training step, measured on a few steps in a temporary folder.

    Args:
        run: settings of the run.
        progress: show a progress bar; None: on a terminal.

    Raises:
        KeyboardInterrupt: if a signal ended the measuring.
    """
    with TemporaryDirectory(prefix="gritlm-adapt-") as folder:
        few = replace(run.training, output_dir=folder, max_steps=_MEASURED)
        result = train(replace(run, training=few), report=_ignore, progress=progress)
        if result.stopped:
            raise KeyboardInterrupt
        entries = metrics_log.read(Path(folder))
        return median([float(entry["seconds"]) for entry in entries[1:] if "seconds" in entry])


def count_steps(config: AdaptConfig, run: TrainConfig, pairs: int, seconds: float) -> int:
    """Return the number of training steps that the minutes allow, at most two passes.

    Args:
        config: settings of the adaptation.
        run: settings of the training run.
        pairs: number of embedding rows.
        seconds: seconds of a step.
    """
    passes = math.ceil(_PASSES * pairs / run.training.per_device_train_batch_size)
    allowed = int(60 * config.minutes / max(seconds, 1e-6))
    return max(_FEWEST_STEPS, min(passes, allowed))


def train_adapter(
    config: AdaptConfig,
    folder: RunFolder,
    facts: ModelFacts,
    *,
    report: Callable[[str], None],
    progress: bool | None = None,
) -> dict[str, int]:
    """Train the adapter in the run's folder; go on from a checkpoint over the same rows.

    Args:
        config: settings of the adaptation.
        folder: folder of the run.
        facts: facts about the model.
        report: callback for lines of the log.
        progress: show a progress bar; None: on a terminal.

    Returns:
        The number of steps.

    Raises:
        KeyboardInterrupt: if a signal ended the training, after a checkpoint is written.
    """
    run = training_config(config, folder, facts)
    chats = () if config.chats else (CHATS,)
    rows = folder.digest([PAIRS, ANSWERS, *chats])
    before = _read(folder)
    if before.get("rows") == rows:
        steps = before["steps"]
    else:
        _remove_checkpoints(folder.root)
        steps = config.steps or count_steps(config, run, len(folder.read(PAIRS)), step_seconds(run))
        _write(folder, {"rows": rows, "steps": steps})
    going_on = bool(checkpoint.checkpoints(folder.root))
    training = replace(
        run.training,
        max_steps=steps,
        save_steps=max(1, math.ceil(steps / _SAVED)),
        resume_from_checkpoint=going_on,
        overwrite_output_dir=not going_on,
    )
    run = replace(run, training=training)
    _write(folder, {"rows": rows, "steps": steps, "settings": asdict(run)})
    result: TrainResult = train(run, report=report, progress=progress)
    if result.stopped:
        raise KeyboardInterrupt
    _remove_checkpoints(folder.root)
    return {"steps": result.steps}


def _remove_checkpoints(root: Path) -> None:
    for path in checkpoint.checkpoints(root):
        shutil.rmtree(path)


def _read(folder: RunFolder) -> dict[str, Any]:
    path = folder.path(FILE)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _write(folder: RunFolder, values: Mapping[str, Any]) -> None:
    path = folder.path(FILE)
    with atomic.replacing(path) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _ignore(_line: str) -> None:
    """Drop a line of the log of a run that only measures time."""
