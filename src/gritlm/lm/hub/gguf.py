"""Conversion of a Llama GGUF file to a checkpoint folder with dequantised safetensors.

transformers reads such a file but cannot save the model (its quantizer refuses), maps the tensor
names again for every submodule, and does not know how SmolLM splits numbers. The ``gguf`` package
maps tensor names and dequantises blocks; transformers reads configuration and vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from gritlm.errors import ModelError
from gritlm.lm.hub.load_errors import explained
from gritlm.lm.hub.quiet import quiet

# Rounding to bfloat16 changes a value by at most 2^-8 of itself. In the default model that is a
# sixtieth (rms) of the error of its 4-bit quantisation.
DTYPE = torch.bfloat16

_SPECIAL = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


def convert(gguf_file: Path, folder: Path) -> None:
    """Write configuration, bfloat16 weights and tokenizer of a Llama GGUF file to a folder.

    Args:
        gguf_file: the GGUF file.
        folder: the target.

    Raises:
        ModelError: for a file of another architecture, or one that is damaged or lacks tensors.
        OSError: for a folder that cannot be written.
    """
    with explained(str(gguf_file)), quiet():
        reader = gguf.GGUFReader(gguf_file)
        if (kind := _field(reader, "general.architecture")) != "llama":
            raise ModelError(f"{gguf_file}: expected the architecture 'llama', got {kind!r}")
        config = AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
        del config._model_name_or_path  # the title in the file, not a path
        _model(reader, config).save_pretrained(folder)
        _tokenizer(reader, gguf_file, config.max_position_embeddings).save_pretrained(folder)


def _field(reader: gguf.GGUFReader, key: str) -> object:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _model(reader: gguf.GGUFReader, config: LlamaConfig) -> LlamaForCausalLM:
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    weights = {}
    for name in model.state_dict():
        tensor = stored.get(names.get_name(name, try_suffixes=(".weight",)) or "")
        if tensor is not None:
            weights[name] = _weight(tensor, name, config)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if lacking := [name for name, value in model.state_dict().items() if value.is_meta]:
        raise ModelError(f"the GGUF file has no tensor for {', '.join(lacking)}")
    return model


def _weight(tensor: gguf.ReaderTensor, name: str, config: LlamaConfig) -> torch.Tensor:
    value = gguf.dequantize(tensor.data, tensor.tensor_type)
    if ".q_proj." in name:
        value = _rotary_halves(value, config.num_attention_heads)
    elif ".k_proj." in name:
        value = _rotary_halves(value, config.num_key_value_heads or config.num_attention_heads)
    return torch.from_numpy(np.array(value)).to(DTYPE)  # a copy: torch dislikes read-only maps


def _rotary_halves(value: np.ndarray, heads: int) -> np.ndarray:
    """Return weights with the halves of each head in a row; GGUF interleaves them."""
    pairs = value.reshape(heads, -1, 2, *value.shape[1:])
    return pairs.swapaxes(1, 2).reshape(value.shape)


def _tokenizer(
    reader: gguf.GGUFReader, gguf_file: Path, max_length: int
) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    if _field(reader, "tokenizer.ggml.pre") == "smollm":
        # Unknown to transformers: without it, "\n\n1" and "   2" are split unlike in training.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    for name, key in _SPECIAL.items():  # transformers before 5.21 has a wrong end token
        number = _field(reader, f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
    for leftover in ("is_local", "local_files_only", "name_or_path"):
        tokenizer.init_kwargs.pop(leftover, None)
    tokenizer.model_max_length = max_length
    return tokenizer
