"""Writing of a model as a GGUF file, which llama.cpp loads for chats.

llama.cpp reads causally only, so the file serves the generating half of a model. Names of tensors,
quantisation and the layout of the file come from the ``gguf`` package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gritlm.atomic import replacing
from gritlm.errors import ModelError, choice
from gritlm.lm.chat import chat_ids
from gritlm.lm.hub.formats.gguf_vocabulary import Vocabulary, vocabulary_of
from gritlm.lm.tokens import SegmentTokenizer

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
GGUF_TYPES: tuple[GgufType, ...] = get_args(GgufType)

_STORED = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
_FINER = {gguf.GGMLQuantizationType.Q4_0: gguf.GGMLQuantizationType.Q8_0}  # of the vocabulary
_VOCABULARY = ("token_embd.weight", "output.weight")
_ELSEWHERE = "write a folder with form='chat' and convert it with llama.cpp's convert_hf_to_gguf.py"


@dataclass(frozen=True)
class _Family:
    """How llama.cpp stores a family.

    Attributes:
        arch: architecture in the file.
        interleaved: whether the rows that RoPE rotates alternate, instead of being halves.
    """

    arch: gguf.MODEL_ARCH
    interleaved: bool = False


_FAMILIES = {
    "llama": _Family(gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "mistral": _Family(gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "qwen2": _Family(gguf.MODEL_ARCH.QWEN2),
    "qwen3": _Family(gguf.MODEL_ARCH.QWEN3),
}


def write(
    path: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    dtype: GgufType,
) -> None:
    """Write a model and its tokenizer as a GGUF file, atomically.

    Args:
        path: the file; an existing one is replaced.
        model: decoder of transformers with its LM head.
        tokenizer: its tokenizer, with a chat template.
        template: chat format of the model, ``gritlm`` or ``tokenizer``.
        dtype: type of the matrices: ``f32``, ``f16``, ``bf16``, ``q8_0`` or ``q4_0``. Vectors are
            float32; with ``q4_0`` embeddings and LM head have 8 bits.

    Raises:
        ModelError: for a family, a rope scaling or a tokenizer that is not supported here, or for
            quantised weights.
        InputError: for an unknown type.
        OSError: for a file that cannot be written.
    """
    choice(dtype, GGUF_TYPES, name="dtype")
    family = _family(model.config)
    begins = chat_ids(SegmentTokenizer(tokenizer), "a", template=template)[0]
    vocabulary = vocabulary_of(
        tokenizer,
        int(model.config.vocab_size),
        begins_with_bos=begins == tokenizer.bos_token_id,
        instead=_ELSEWHERE,
    )
    with replacing(path) as staged:
        writer = gguf.GGUFWriter(staged, gguf.MODEL_ARCH_NAMES[family.arch], use_temp_file=True)
        writer.add_name(path.stem)
        writer.add_file_type(_STORED[dtype][1])
        _describe(writer, model.config)
        _add_vocabulary(writer, vocabulary, model)
        for tensor, values in _tensors(model, family):
            kind = _stored_as(tensor, values, dtype)
            writer.add_tensor(tensor, gguf.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _family(config: Any) -> _Family:
    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(
            f"GGUF of the family {config.model_type!r} is not written here, only of "
            f"{', '.join(_FAMILIES)}; {_ELSEWHERE}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            "GGUF of quantised weights is not written; load the model without quantization"
        )
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if (scaling := rope.get("rope_type", "default")) != "default":
        raise ModelError(f"GGUF of rope scaling {scaling!r} is not written here; {_ELSEWHERE}")
    return family


def _describe(writer: gguf.GGUFWriter, config: Any) -> None:
    """Add the sizes of the model."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, model: Any) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(vocabulary.adds_bos)
    adders = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "pad": writer.add_pad_token_id,
        "unk": writer.add_unk_token_id,
    }
    for name, number in vocabulary.special.items():
        adders[name](number)
    ends = getattr(model.generation_config, "eos_token_id", None)
    for number in ends if isinstance(ends, list) else []:
        if number != vocabulary.special.get("eos"):
            writer.add_eot_token_id(number)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _tensors(model: Any, family: _Family) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield name and float32 values of each tensor, in the order of rows of llama.cpp.

    Raises:
        ModelError: for a tensor that the family does not have in llama.cpp.
    """
    config = model.config
    names = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for name, value in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise ModelError(f"llama.cpp has no tensor for {name!r}; {_ELSEWHERE}")
        if family.interleaved and ".q_proj." in name:
            value = _interleaved(value, config.num_attention_heads)
        elif family.interleaved and ".k_proj." in name:
            value = _interleaved(value, config.num_key_value_heads)
        yield stored, value.detach().to("cpu", torch.float32).numpy()


def _interleaved(value: Tensor, heads: int) -> Tensor:
    """Return weights or biases with the two halves of each head in alternating rows."""
    halves = value.reshape(heads, 2, -1, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape).contiguous()


def _stored_as(
    tensor: str, values: np.ndarray[Any, Any], dtype: GgufType
) -> gguf.GGMLQuantizationType:
    """Return the type of a tensor: vectors stay float32, rows that do not fit blocks bfloat16."""
    if values.ndim < 2:
        return gguf.GGMLQuantizationType.F32
    kind = _STORED[dtype][0]
    kind = _FINER.get(kind, kind) if tensor in _VOCABULARY else kind
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return gguf.GGMLQuantizationType.BF16 if values.shape[-1] % block else kind
