"""Arguments of the decoder for training on texts with images and sound, padded in rows.

Shapes: B rows, L positions, T tokens of all rows without padding, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gritlm.lm.media.passes import decoder_inputs
from gritlm.lm.media.senses import MediaTokens, Senses
from gritlm.lm.tokens import Prompt
from gritlm.lm.unified import unpack
from gritlm.train.data.packing import PackedBatch
from gritlm.train.model import hidden_states


def prompt_states(
    decoder: Any, senses: Senses | None, prompts: Sequence[Prompt], *, causal: bool
) -> Tensor:
    """Return the states of prompts with images and sound (B, L, D); undefined after a prompt.

    Args:
        decoder: decoder of transformers without its LM head.
        senses: towers of the model.
        prompts: the prompts, some of them possibly texts only.
        causal: whether a token attends to earlier tokens only; a prompt is then a pass of its own.
    """
    device = decoder.get_input_embeddings().weight.device
    rows = [torch.tensor(prompt.ids, device=device) for prompt in prompts]
    if causal:
        states = [
            _causal_states(decoder, senses, row_L, prompt.media)
            for row_L, prompt in zip(rows, prompts, strict=True)
        ]
        return pad_sequence(states, batch_first=True)
    lengths = [len(prompt.ids) for prompt in prompts]
    media = [each for prompt in prompts for each in prompt.media]
    given = decoder_inputs(decoder, senses, torch.cat(rows), lengths, media, causal=False)
    real_BL = pad_sequence([torch.ones_like(row_L) for row_L in rows], batch_first=True)
    mask = hidden_states.full_mask(real_BL, decoder)
    arguments = _in_rows(given.arguments, lengths)
    return decoder(attention_mask=mask, use_cache=False, **arguments).last_hidden_state


def _causal_states(
    decoder: Any, senses: Senses | None, ids_T: Tensor, media: Sequence[MediaTokens]
) -> Tensor:
    given = decoder_inputs(decoder, senses, ids_T, [len(ids_T)], media, causal=True)
    return decoder(use_cache=False, **given.arguments).last_hidden_state[0]


def generative_arguments(decoder: Any, senses: Senses | None, rows: PackedBatch) -> dict[str, Any]:
    """Return the arguments of the decoder for rows of samples with images and sound.

    Samples of a row are kept apart by the mask, whatever the positions of the model are.

    Args:
        decoder: decoder of transformers without its LM head.
        senses: towers of the model.
        rows: the batch.
    """
    ids_T = rows.ids_BL[rows.real_BL]
    starts = (rows.position_BL[rows.real_BL] == 0).nonzero()[:, 0].tolist()
    ends = [*starts[1:], len(ids_T)]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    given = decoder_inputs(decoder, senses, ids_T, lengths, rows.media, causal=False)
    within = senses is not None and senses.attends_within
    mask = hidden_states.masks(_seen(rows, within=within), rows.position_BL, decoder)
    arguments = _in_rows(given.arguments, rows.real_BL.sum(dim=1).tolist())
    return {"attention_mask": mask, **arguments}


def _seen(rows: PackedBatch, *, within: bool) -> Tensor:
    """Return the tokens of its sample (B, L, L) that each token attends to: the earlier ones.

    Args:
        rows: the batch.
        within: whether the tokens of an image attend to each other.
    """
    size = rows.ids_BL.shape[1]
    same_BLL = rows.sample_BL[:, :, None] == rows.sample_BL[:, None, :]
    earlier_LL = torch.ones(size, size, dtype=torch.bool, device=same_BLL.device).tril()
    if not within:
        return same_BLL & earlier_LL
    inside_BL = rows.ids_BL < 0
    begins_BL = inside_BL & ~torch.nn.functional.pad(inside_BL, (1, 0))[:, :-1]
    group_BL = torch.where(inside_BL, begins_BL.cumsum(dim=1), 0)
    image_BLL = (group_BL[:, :, None] == group_BL[:, None, :]) & (group_BL > 0)[:, None, :]
    return same_BLL & (earlier_LL | image_BLL)


def _in_rows(arguments: dict[str, Any], lengths: Sequence[int]) -> dict[str, Any]:
    """Return arguments for concatenated texts (1, T) as arguments for padded rows (B, L)."""
    found = dict(arguments)
    found["inputs_embeds"] = unpack(arguments["inputs_embeds"][0], [*lengths])
    position_T3 = arguments["position_ids"].reshape(-1, sum(lengths)).T
    position_BL3 = unpack(position_T3, [*lengths])
    flat = position_T3.shape[1] == 1
    found["position_ids"] = position_BL3[..., 0] if flat else position_BL3.permute(2, 0, 1)
    if "visual_pos_masks" in arguments:
        found["visual_pos_masks"] = unpack(arguments["visual_pos_masks"].T, [*lengths])[..., 0]
    return found
