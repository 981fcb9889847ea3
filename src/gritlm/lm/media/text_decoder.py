"""The text decoder of a model that reads images or sound, as a causal model of its own.

It shares its tensors with the whole model. Where transformers has a causal class for the decoder
(Llama, Qwen2, Gemma 3), it is that class, so texts are read exactly as by a text model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

_NAMES = ("language_model", "text_model")


class DecoderWithHead(PreTrainedModel, GenerationMixin):
    """A decoder with an LM head, for decoders without a causal class in transformers.

    Args:
        decoder: the decoder.
        head: the LM head.
    """

    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, decoder: Any, head: Any) -> None:
        super().__init__(decoder.config)
        self.model = decoder
        self.lm_head = head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Return the logits of the kept positions; the arguments are those of other decoders."""
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **others,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=self.lm_head(output.last_hidden_state[:, kept]),
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


def decoder_name(core: Any) -> str:
    """Return the name under which a model holds its text decoder.

    Args:
        core: the model without its LM head.
    """
    return next(name for name in _NAMES if name in core._modules)


def text_decoder(whole: Any) -> Any:
    """Return the text decoder of a model, with the LM head if the model has one.

    Args:
        whole: the model, as transformers loads it.
    """
    core = whole.base_model
    decoder = getattr(core, decoder_name(core))
    if whole is core:
        return decoder
    config = decoder.config
    causal: Any
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        with torch.device("meta"):
            causal = AutoModelForCausalLM.from_config(config)
        causal.model = decoder
        causal.lm_head = whole.lm_head
        causal.config = config
    else:
        causal = DecoderWithHead(decoder, whole.lm_head)
    config.tie_word_embeddings = causal.lm_head.weight is decoder.get_input_embeddings().weight
    causal.generation_config = whole.generation_config
    causal.name_or_path = whole.name_or_path
    return causal.eval()
