"""Generation of answers in batches, with lm-eval's stop strings.

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
from gritlm.lm.continuous import greedy_answers
from gritlm.lm.encoder import batches
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.slot_memory import obstacle
from gritlm.lm.tokens import Prompt

MAX_NEW_TOKENS = 256  # default of lm-eval's hf model
SEED = 1234  # for sampling; lm-eval's own

# A decode step reads all weights whatever the number of rows, so rows cost little until their keys
# and values do.
ROWS = {"cpu": 16, "mps": 16, "cuda": 64}
TOKEN_BUDGET = {"cpu": 16384, "mps": 16384, "cuda": 65536}
ROUNDS = 8  # prompts of a call, in rows: at its end, ever fewer sequences run


@dataclass(frozen=True)
class GenerationSettings:
    """Settings for generating answers.

    Attributes:
        until: stop strings, which are not part of the answer.
        max_new_tokens: largest number of tokens of an answer.
        options: options of transformers' ``generate``.
    """

    until: tuple[str, ...]
    max_new_tokens: int
    options: Mapping[str, Any]

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the likeliest token is taken each time, without further options."""
        return dict(self.options) == {"do_sample": False}


def generation_settings(gen_kwargs: Mapping[str, Any], *, end: str | None) -> GenerationSettings:
    """Return the settings of a task, read as by lm-eval's hf model.

    Args:
        gen_kwargs: ``generation_kwargs`` of the task.
        end: text of the tokenizer's end token, which is a stop string too.
    """
    options: dict[str, Any] = dict(normalize_gen_kwargs(dict(gen_kwargs), MAX_NEW_TOKENS))
    until = handle_stop_sequences(options.pop("until"), eos=end)
    length = options.pop("max_gen_toks")
    if not options["do_sample"]:
        options.pop("temperature", None)  # transformers warns of a temperature without sampling
    return GenerationSettings(tuple(until), length, options)


def answers(
    model: GritLM,
    prompts: Sequence[tuple[int, ...]],
    settings: GenerationSettings,
    *,
    reducer: BatchSizeReducer | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield index and answer of each prompt, batch by batch, the longest prompts first.

    Args:
        model: model with its LM head.
        prompts: token ids that leave room for ``settings.max_new_tokens``.
        settings: settings for generating.
        reducer: batch size limit to share with other calls; None for a new one.
    """
    reducer = reducer or BatchSizeReducer()
    rows, budget = _batch_limits(model)
    continuous = settings.is_plain_greedy and obstacle(model.lm) is None
    rounds = ROUNDS if continuous else 1
    generate = _generate_continuously if continuous else _generate
    sizes = [Prompt(list(ids)) for ids in prompts]
    for numbers in batches(sizes, rounds * rows, rounds * budget, padded=True):
        chosen = [prompts[number] for number in numbers]
        found = reducer.run(lambda batch: generate(model, batch, settings), chosen)
        yield from zip(numbers, found, strict=True)


def _batch_limits(model: GritLM) -> tuple[int, int]:
    """Return the most rows and the most tokens of a batch on the model's device."""
    device = model.device.type
    return ROWS.get(device, ROWS["cpu"]), TOKEN_BUDGET.get(device, TOKEN_BUDGET["cpu"])


def _generate_continuously(
    model: GritLM, prompts: Sequence[tuple[int, ...]], settings: GenerationSettings
) -> list[str]:
    rows, budget = _batch_limits(model)
    longest = max(len(ids) for ids in prompts) + settings.max_new_tokens
    found = greedy_answers(
        model,
        prompts,
        until=settings.until,
        max_new_tokens=settings.max_new_tokens,
        slots=max(1, min(rows, 2 * budget // longest)),
    )
    return _texts(model, found, settings)


def _generate(
    model: GritLM, prompts: Sequence[tuple[int, ...]], settings: GenerationSettings
) -> list[str]:
    width = max(len(ids) for ids in prompts)
    pad = model.tokenizer.pad_token_id or 0
    ids_BL = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in prompts])
    mask_BL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    stops = stop_sequences_criteria(model.tokenizer, list(settings.until), width, len(prompts))
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        found_BL = model.generate(
            ids_BL.to(model.device),
            attention_mask=mask_BL.to(model.device),
            max_new_tokens=settings.max_new_tokens,
            stopping_criteria=stops,
            eos_token_id=sorted(model.end_ids) or None,
            **settings.options,
        )
    return _texts(model, found_BL[:, width:].tolist(), settings)


def _texts(model: GritLM, answers: Sequence[list[int]], settings: GenerationSettings) -> list[str]:
    texts = [str(model.tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]
    return [postprocess_generated_text(text, list(settings.until), None) for text in texts]
