"""Tiny Llamas as GGUF files, written as llama.cpp's own converter lays them out."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
import transformers as hf

from tests import tiny

# Blocks hold 32 values, so every row length has to be a multiple of it.
SIZES = {"hidden_size": 64, "intermediate_size": 96}
F32, Q4_1, Q8_0 = (getattr(gguf.GGMLQuantizationType, name) for name in ("F32", "Q4_1", "Q8_0"))


def write(
    path: Path,
    *,
    tied: bool = True,
    kind: gguf.GGMLQuantizationType = F32,
    pre: str = "smollm",
    arch: str = "llama",
    leave_out: str = "",
) -> hf.PreTrainedModel:
    """Write a random model as GGUF, matrices stored as ``kind``; returns the model, unrounded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = tiny.model("llama", tie_word_embeddings=tied, **SIZES)
    writer = gguf.GGUFWriter(path, arch)
    _describe(writer, model.config)
    _add_tokenizer(writer, pre)
    for name, value in _tensors(model).items():
        if name != leave_out:
            stored = kind if value.ndim == 2 else F32
            writer.add_tensor(name, gguf.quantize(value.numpy(), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _describe(writer: gguf.GGUFWriter, config: hf.LlamaConfig) -> None:
    writer.add_name("Tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    tokenizer = tiny.tokenizer()
    path = Path(writer.path).with_suffix(".tokenizer")
    tokenizer.backend_tokenizer.model.save(str(path.parent), path.stem)
    merges_file = path.parent / f"{path.stem}-merges.txt"
    merges = merges_file.read_text(encoding="utf-8").splitlines()[1:]
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([control if n < 3 else normal for n in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tiny.CHAT)


def _tensors(model: hf.PreTrainedModel) -> dict[str, torch.Tensor]:
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tensors = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if "q_proj" in name:
            value = _interleaved(value, config.num_attention_heads)
        if "k_proj" in name:
            value = _interleaved(value, config.num_key_value_heads)
        tensors[names.get_name(name, try_suffixes=(".weight",))] = value
    return tensors


def _interleaved(value: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's order of the rows that RoPE rotates."""
    halves = value.reshape(heads, 2, -1, value.shape[1])
    return halves.swapaxes(1, 2).reshape(value.shape).contiguous()
