"""Checks of a loaded model: bidirectional attention, causal attention and finite states.

Some versions of transformers ignored ``is_causal=False`` for padded or eager batches, without an
error: the embeddings were those of a causal model. Such a model is refused.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from gritlm.errors import AttentionError, GritLMError, ModelError
from gritlm.lm.unified import UnifiedLM

log = logging.getLogger(__name__)

_LENGTH = 6
# Below any real effect of a changed token, above rounding in bfloat16 of equal inputs (which is 0).
_TOLERANCE = 1e-6
_ALIKE = 0.99  # cosine of states that two kernels compute; in bfloat16 they differ by 1e-3
_SAMPLE = 256
# Errors of models whose attention has another interface than the views expect.
_UNLIKE = (AttributeError, TypeError, ValueError, RuntimeError)


def require_views(lm: UnifiedLM) -> None:
    """Check that the first state depends on the last token in the bidirectional view only.

    The last token of a text is changed, with and without padding.

    Raises:
        AttentionError: for a bidirectional view whose first token does not see the last one, or a
            model without support for such a view.
        ModelError: for a causal view whose first token sees the last one, or for NaN or infinite
            states.
    """
    try:
        _require_views(lm)
    except GritLMError:
        raise
    except _UNLIKE as error:
        raise AttentionError(
            f"{type(lm.causal).__name__} cannot be read bidirectionally ({error}); it can write: "
            "mode='generative'"
        ) from error


@torch.inference_mode()
def _require_views(lm: UnifiedLM) -> None:
    ids_BL, mask_BL = _texts(lm)
    short_BL = ids_BL[:2, :_LENGTH]
    name = type(lm.causal).__name__
    kinds = [("padded", ids_BL, mask_BL), ("unpadded", short_BL, None)]
    # A model that takes concatenated texts computes padded ones without their padding.
    for kind, ids, mask in kinds[1:] if lm.packs else kinds:
        if _change(lm, ids, mask, causal=False) <= _TOLERANCE:
            raise AttentionError(
                f"{name}: the first token of a {kind} text does not see its last one, so this "
                "model cannot embed bidirectionally with this transformers; use attn='cccc'"
            )
    if _change(lm, short_BL, None, causal=True) > _TOLERANCE:
        raise ModelError(
            f"{name}: the first token sees the last one in the causal pass; this is an encoder, "
            "and gritlm takes decoders (Llama, Mistral, Qwen, ...)"
        )


def reads_alike(lm: UnifiedLM, view: Any) -> bool:
    """Return whether another view of the decoder computes the same bidirectional states.

    Args:
        lm: the model.
        view: the other view.
    """
    try:
        return _reads_alike(lm, view)
    except (GritLMError, *_UNLIKE) as error:
        log.info("%s cannot be read bidirectionally: %s", type(lm.causal).__name__, error)
        return False


@torch.inference_mode()
def _reads_alike(lm: UnifiedLM, view: Any) -> bool:
    """Compare all states, padded and unpadded; the first one must depend on the last token.

    The first state alone is not enough: in many models it is large and hardly changes.
    """
    ids_BL, mask_BL = _texts(lm)
    for ids, mask in ((ids_BL, mask_BL), (ids_BL[:2, :_LENGTH], None)):
        own_BLD = lm.hidden(ids, mask, causal=False).float()
        other_BLD = view(ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        real_BL = torch.ones_like(ids) if mask is None else mask
        cosine_T = torch.cosine_similarity(own_BLD, other_BLD, dim=-1)[real_BL.bool()]
        moved = (other_BLD[0, 0] - other_BLD[1, 0]).abs().max()
        if not (cosine_T.min() >= _ALIKE and moved > _TOLERANCE):
            return False
    return True


@torch.inference_mode()
def require_numbers(lm: UnifiedLM) -> None:
    """Check that a causal pass over a few tokens, with the LM head if any, is finite.

    Raises:
        ModelError: for NaN or infinite states or logits.
    """
    ids_BL = torch.tensor([_unlike_tokens(lm)], device=lm.device)
    if lm.has_head:
        _require_finite(lm, lm.causal(ids_BL, use_cache=False).logits)
    else:
        _require_finite(lm, lm.hidden(ids_BL, causal=True))


def _change(
    lm: UnifiedLM, ids_BL: torch.Tensor, mask_BL: torch.Tensor | None, *, causal: bool
) -> float:
    """Return the largest difference between the first states of rows 0 and 1.

    Raises:
        ModelError: for a NaN or infinite state.
    """
    state_BD = lm.hidden(ids_BL, mask_BL, causal=causal)[:2, 0].float()
    _require_finite(lm, state_BD)
    return float((state_BD[0] - state_BD[1]).abs().max())


def _texts(lm: UnifiedLM) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three texts and their mask.

    The first two have :data:`_LENGTH` tokens and differ in the last one; the third is longer.
    """
    first, last, filler = _unlike_tokens(lm)
    ids_BL = torch.full((3, _LENGTH + 2), filler, device=lm.device)
    ids_BL[:, 0] = first
    ids_BL[1, _LENGTH - 1] = last
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[:2, _LENGTH:] = 0
    return ids_BL, mask_BL


def _require_finite(lm: UnifiedLM, values: torch.Tensor) -> None:
    if not torch.isfinite(values).all():
        name = getattr(lm.causal, "name_or_path", "") or type(lm.causal).__name__
        raise ModelError(
            f"{name}: the model computes non-finite states (NaN or infinite) in {lm.dtype}; its "
            "weights are damaged, or need dtype='float32' or 'bfloat16'"
        )


def _unlike_tokens(lm: UnifiedLM) -> list[int]:
    """Return three token ids with different embeddings.

    They are spread over the vocabulary, because many vocabularies begin with unused tokens.
    """
    embeddings = lm.decoder.get_input_embeddings()
    weight = embeddings.weight
    some = torch.linspace(0, weight.shape[0] - 1, _SAMPLE).long().unique()
    if weight.device.type == "meta":
        return some[len(some) // 4 :: len(some) // 4][:3].tolist()
    row_SD = embeddings(some.to(weight.device)).float().cpu()
    chosen = [int(row_SD.norm(dim=1).argmax())]
    for _ in range(2):
        chosen.append(int(torch.cdist(row_SD, row_SD[chosen]).amin(dim=1).argmax()))
    return some[chosen].tolist()
