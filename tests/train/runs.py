"""Small runs on tiny random models: their data, their settings, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gritlm.train.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    RagConfig,
    SourceConfig,
    TrainConfig,
    TrainingConfig,
)
from gritlm.train.run import metrics_log
from tests import tiny

PAIRS = [
    {
        "query": ["find the fact", f"what of {i} cats"],
        "pos": [f"{i} cats sleep {i * 7} hours a day" + " or more" * (i % 4)],
        "neg": [f"dogs walk {i * 3} miles", f"water boils at {i}"],
    }
    for i in range(40)
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"say {i}" + " please" * (i % 3)},
            {"role": "assistant", "content": f"the quick fox {i}" + " jumps" * (i % 5)},
        ]
    }
    for i in range(30)
]
QUESTIONS = [
    {
        "question": f"who has ball {i}?",
        "documents": [f"Ann has ball {i}.", "Bob has a car.", "Cats sleep."],
        "answer": "Ann",
    }
    for i in range(10)
]
OTHER_WORDS = (
    "{} times water boils",
    "dogs sleep {} days",
    "{} cats rest",
    "{} cats sleep all day",
)
SCORED = [
    {
        "sentence1": ["same words", f"{i} cats sleep" + " or more" * (i % 3)],
        "sentence2": OTHER_WORDS[i % 4].format(i),
        "score": i % 4,
    }
    for i in range(24)
]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> SourceConfig:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if (
        not path.is_file() or path.read_text(encoding="utf-8") != text
    ):  # another process may read it
        path.write_text(text, encoding="utf-8")
    return SourceConfig(str(path))


def make(
    folder: Path,
    *,
    family: str = "llama",
    rag: bool = False,
    scored: bool = False,
    asks: bool = False,
    **sections: Any,
) -> TrainConfig:
    """A run in ``folder``; ``training=dict(...)`` and the like change its settings.

    With ``scored``, a source of scored pairs comes as often as the one of other pairs. With
    ``asks``, queries are questions of the question loss.
    """
    base = folder / family
    if not base.exists():
        tiny.folder(base, family)
    pairs = (replace(write(folder / "pairs.jsonl", PAIRS), questions=asks),)
    if scored:
        pairs += (replace(write(folder / "scored.jsonl", SCORED), weight=float(len(PAIRS))),)
    data = {
        "embedding": pairs,
        "generative": (write(folder / "chats.jsonl", CHATS),),
        "rag": (write(folder / "rag.jsonl", QUESTIONS),) if rag else (),
        "query_max_len": 40,
        "passage_max_len": 48,
        "generative_max_len": 96,
    }
    training = {
        "output_dir": str(folder / "out"),
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "per_device_generative_bs": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "bf16": False,
        "lr_scheduler_type": "linear",
    }
    return TrainConfig(
        training=TrainingConfig(**(training | sections.get("training", {}))),
        data=DataConfig(**(data | sections.get("data", {}))),
        model=ModelConfig(**({"base": str(base)} | sections.get("model", {}))),
        loss=LossConfig(
            **({"temperature": 0.1, "question_weight": float(asks)} | sections.get("loss", {}))
        ),
        rag=RagConfig(**sections.get("rag_options", {})),
    )


def elsewhere(run: TrainConfig, name: str, **training: Any) -> TrainConfig:
    """The same run with another folder, and other settings of [training]."""
    output = str(Path(run.training.output_dir).with_name(name))
    return replace(run, training=replace(run.training, output_dir=output, **training))


def weights(folder: str | Path) -> dict[str, Tensor]:
    """What a run has trained, or one of its checkpoints."""
    folder = Path(folder)
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "model.safetensors")


def losses(run: TrainConfig) -> list[dict[str, float]]:
    """Both losses and the norm of the gradient of every step."""
    kept = ("step", "loss_emb", "loss_gen", "grad_norm")
    entries = metrics_log.read(Path(run.training.output_dir))
    return [{k: e[k] for k in kept if k in e} for e in entries if "loss" in e]


def assert_same_course(one: TrainConfig, other: TrainConfig, bound: float) -> None:
    """Equal losses and gradient norms in every step."""
    ours, theirs = losses(one), losses(other)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert abs(value - b[name]) <= bound * max(1.0, abs(b[name])), (a["step"], name)


def assert_same_weights(one: str | Path, other: str | Path, bound: float) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=bound), name
