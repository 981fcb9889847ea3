"""Answers in batches, padded on the left, ended by lm-eval's own stop strings.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.models.utils_hf import stop_sequences_criteria

from gritlm.evaluation.memory import BatchSizeReducer
from gritlm.lm.encoder import batches
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import Prompt

MAX_NEW_TOKENS = 256  # where a task does not say, as in lm-eval's hf model
SEED = 1234  # of what is drawn; lm-eval's own

# A step reads all weights, for one row or for many; more rows cost little until keys and values do.
ROWS = {"cpu": 16, "mps": 16, "cuda": 64}
TOKEN_BUDGET = {"cpu": 16384, "mps": 16384, "cuda": 65536}


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are written.

    Attributes:
        until: strings that end an answer; they are not part of it.
        max_new_tokens: most tokens of an answer.
        options: for transformers' ``generate``.
    """

    until: tuple[str, ...]
    max_new_tokens: int
    options: Mapping[str, Any]

    @property
    def samples(self) -> bool:
        return bool(self.options.get("do_sample"))


def manner(gen_kwargs: Mapping[str, Any], *, end: str | None) -> GenerationSettings:
    """What a task's ``generation_kwargs`` come to, as lm-eval's hf model reads them.

    Args:
        end: the tokenizer's end token as text; it ends answers too.
    """
    options: dict[str, Any] = dict(normalize_gen_kwargs(dict(gen_kwargs), MAX_NEW_TOKENS))
    until = handle_stop_sequences(options.pop("until"), eos=end)
    length = options.pop("max_gen_toks")
    if not options["do_sample"]:
        options.pop("temperature", None)  # transformers warns of a temperature that nobody reads
    return GenerationSettings(tuple(until), length, options)


def answers(
    model: GritLM,
    prompts: Sequence[tuple[int, ...]],
    how: GenerationSettings,
    *,
    halver: BatchSizeReducer | None = None,
) -> Iterator[tuple[int, str]]:
    """Number and answer of each prompt, batch by batch, the longest first.

    Args:
        prompts: ids that leave room for ``how.max_new_tokens``.
    """
    halver = halver or BatchSizeReducer()
    device = model.device.type
    rows = ROWS.get(device, ROWS["cpu"])
    budget = TOKEN_BUDGET.get(device, TOKEN_BUDGET["cpu"])
    sizes = [Prompt(list(ids)) for ids in prompts]
    for numbers in batches(sizes, rows, budget, padded=True):
        chosen = [prompts[number] for number in numbers]
        found = halver.run(lambda batch: _write(model, batch, how), chosen)
        yield from zip(numbers, found, strict=True)


def _write(model: GritLM, prompts: Sequence[tuple[int, ...]], how: GenerationSettings) -> list[str]:
    width = max(len(ids) for ids in prompts)
    pad = model.tokenizer.pad_token_id or 0
    ids_BL = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in prompts])
    mask_BL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    stops = stop_sequences_criteria(model.tokenizer, list(how.until), width, len(prompts))
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        found_BL = model.generate(
            ids_BL.to(model.device),
            attention_mask=mask_BL.to(model.device),
            max_new_tokens=how.max_new_tokens,
            stopping_criteria=stops,
            eos_token_id=sorted(model.end_ids) or None,
            **how.options,
        )
    texts = [
        str(model.tokenizer.decode(ids, skip_special_tokens=True))
        for ids in found_BL[:, width:].tolist()
    ]
    return [postprocess_generated_text(text, list(how.until), None) for text in texts]
