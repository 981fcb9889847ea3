"""Peers of the training benchmark: other libraries with the same weights and token ids.

Shapes: B texts, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.encode import sentence_transformer
from benchmarks.training.ours import TEMPERATURE, Step, with_gradients
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from gritlm.lm.tokens import Prompt
from gritlm.train.data.collate import EmbeddingBatch
from gritlm.train.trainer import Trainer

IGNORED = -100


def sentence_transformers(
    trainer: Trainer, batch: EmbeddingBatch, folder: Path, *, mini_batches: Sequence[int]
) -> dict[str, Step]:
    """GradCache of sentence-transformers, a side for each size of its mini-batches."""
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )

    model = sentence_transformer(Path(trainer.parts.source), folder / "peer", torch.float32).train()
    with_gradients(model)
    columns = [_features(prompts, model.device) for prompts in (batch.queries, batch.passages)]

    def side(size: int) -> Step:
        criterion = CachedMultipleNegativesRankingLoss(
            model, scale=1 / TEMPERATURE, mini_batch_size=size
        )

        def step() -> float:
            # Its second pass reads in backward(), so that is under autocast too.
            with _autocast(trainer):
                loss = criterion([dict(column) for column in columns], None)
                loss.backward()
            return float(loss.detach())

        return step

    return {f"sentence-transformers, mini-batches of {size}": side(size) for size in mini_batches}


def trl(trainer: Trainer, samples: Sequence[Prompt], folder: Path, *, row: int) -> dict[str, Step]:
    """Return the steps of ``SFTTrainer`` with padding (all chats in a batch) and with packing.

    Each packed row is its own micro-batch: TRL concatenates all rows of a batch, and without flash
    attention each row would pay for attention to all others.
    """
    from datasets import Dataset

    rows = Dataset.from_list([_labelled(sample) for sample in samples])
    return {
        f"trl, {'packing' if packing else 'padding'}": _sft(
            trainer, rows, folder / f"packing-{packing}", row=row, packing=packing
        )
        for packing in (False, True)
    }


def _sft(trainer: Trainer, rows: Any, folder: Path, *, row: int, packing: bool) -> Step:
    from trl import SFTConfig, SFTTrainer

    parts = trainer.parts
    model = AutoModelForCausalLM.from_pretrained(parts.source, dtype=torch.float32)
    settings = SFTConfig(
        str(folder),
        per_device_train_batch_size=len(rows),
        max_length=row,
        packing=packing,
        gradient_checkpointing=False,
        bf16=parts.bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    peer = SFTTrainer(
        model=model, args=settings, train_dataset=rows, processing_class=parts.tokenizer
    )
    model = peer.accelerator.prepare(peer.model)
    with_gradients(model)
    found = list(peer.train_dataset)
    groups = [[item] for item in found] if packing else [found]
    batches = [peer.data_collator(group) for group in groups]
    supervised = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)

    def step() -> float:
        losses = [
            peer.training_step(model, dict(batch), num_items_in_batch=torch.tensor(supervised))
            for batch in batches
        ]
        return float(sum(losses))

    return step


def _features(prompts: Sequence[Prompt], device: torch.device) -> dict[str, Any]:
    """A column as the peer's tokenizer would give it; the header is read and not pooled."""
    rows = [torch.tensor(prompt.ids) for prompt in prompts]
    mask_BL = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {
        "input_ids": pad_sequence(rows, batch_first=True).to(device),
        "attention_mask": mask_BL.to(device),
        "prompt_length": prompts[0].pooled[0],
    }


def _labelled(sample: Prompt) -> dict[str, list[int]]:
    labels = [IGNORED] * len(sample.ids)
    for start, end in sample.trained:
        labels[start:end] = sample.ids[start:end]
    return {"input_ids": list(sample.ids), "labels": labels}


def _autocast(trainer: Trainer) -> Any:
    trainee = trainer.parts.trainee
    return torch.autocast(
        trainee.device.type, dtype=torch.bfloat16, enabled=trainee.autocast is not None
    )
