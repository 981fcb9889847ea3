"""Tiny random models of every family, with a small tokenizer trained on a few sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A model that reads, searches and writes with one set of weights.",
    "Ann has a red ball, Bob has a blue car; what colour is the ball?",
    "Cats sleep most of the day. Dogs like long walks in the park.",
    "Water boils at 100 degrees and freezes at 0 degrees.",
]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tokenizer(sentences: Sequence[str] = SENTENCES) -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE with BOS in front of every sequence."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*sentences] * 4, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT,
    )


def config(family: str = "llama", **changes: object) -> hf.PreTrainedConfig:
    """Two or three layers, hidden size 48."""
    common = {
        "vocab_size": 400,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    special: dict[str, dict[str, object]] = {
        "mistral": {"sliding_window": 8},
        "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
        "qwen3": {"head_dim": 12},
        "gemma": {"head_dim": 12},
        "gemma2": {"head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 12},
        "gemma3": {"head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 12},
        "phi": {"partial_rotary_factor": 0.5},
        "phi3": {},
        "gpt_neox": {"rotary_pct": 0.5},
        "cohere2": {"sliding_window": 8},
    }
    kinds = {
        "llama": hf.LlamaConfig,
        "mistral": hf.MistralConfig,
        "mixtral": hf.MixtralConfig,
        "qwen2": hf.Qwen2Config,
        "qwen3": hf.Qwen3Config,
        "gemma": hf.GemmaConfig,
        "gemma2": hf.Gemma2Config,
        "gemma3": hf.Gemma3TextConfig,
        "phi": hf.PhiConfig,
        "phi3": hf.Phi3Config,
        "gpt_neox": hf.GPTNeoXConfig,
        "smollm3": hf.SmolLM3Config,
        "cohere2": hf.Cohere2Config,
    }
    return kinds[family](**(common | special.get(family, {}) | changes))


FAMILIES = [
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi",
    "phi3",
    "gpt_neox",
    "smollm3",
    "cohere2",
]


def model(family: str = "llama", seed: int = 0, **changes: object) -> hf.PreTrainedModel:
    """Random weights, larger than usual so that attention matters."""
    torch.manual_seed(seed)
    made = hf.AutoModelForCausalLM.from_config(
        config(family, initializer_range=0.15, **changes),
        dtype=torch.float32,
        attn_implementation="eager" if family == "gemma2" else None,  # it caps its scores
    )
    return made.eval()


def folder(path: Path, family: str = "llama", seed: int = 0, **changes: object) -> Path:
    """A checkpoint folder as transformers writes it."""
    model(family, seed, **changes).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
