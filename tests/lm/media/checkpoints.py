"""Tiny random checkpoints of families that read images or sound, with their processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers.models.gemma3 import image_processing_pil_gemma3
from transformers.models.got_ocr2 import image_processing_pil_got_ocr2
from transformers.models.idefics3 import configuration_idefics3 as idefics3_parts
from transformers.models.idefics3 import image_processing_pil_idefics3
from transformers.models.llava_onevision import image_processing_pil_llava_onevision
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl
from transformers.models.smolvlm import image_processing_pil_smolvlm

from tests import tiny

TEXT = {
    "vocab_size": 420,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.15,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "initializer_range": 0.15,
}
# In the manner of the templates of SmolVLM: it writes content parts only.
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}IMAGE"
    "{% elif part['type'] == 'audio' %}SOUND{% endif %}"
    "{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tokenizer(special: dict[str, str], extra: list[str], image: str = "", sound: str = "") -> Any:
    """Return a small tokenizer with special tokens, some of them as attributes."""
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": [*special.values(), *extra]})
    template = TEMPLATE.replace("IMAGE", image).replace("SOUND", sound)
    found = hf.PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=template,
        extra_special_tokens=special,
    )
    assert len(found) <= TEXT["vocab_size"]
    return found


def idefics3(folder: Path) -> Path:
    tokens = idefics_tokens()
    config = hf.Idefics3Config(
        vision_config=idefics3_parts.Idefics3VisionConfig(**VISION),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = image_processing_pil_idefics3.Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    kind = hf.Idefics3ForConditionalGeneration
    return _save(folder, kind, config, tokens, images, image_seq_len=4)


def smolvlm(folder: Path) -> Path:
    tokens = idefics_tokens()
    config = hf.SmolVLMConfig(
        vision_config=hf.models.smolvlm.SmolVLMVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = image_processing_pil_smolvlm.SmolVLMImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    kind = hf.SmolVLMForConditionalGeneration
    return _save(folder, kind, config, tokens, images, image_seq_len=4)


def idefics_tokens() -> Any:
    extra = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    extra += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    return tokenizer({}, extra, image="<image>")


def qwen2_vl(folder: Path) -> Path:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "patch_size": 7}
    return _qwen(folder, hf.Qwen2VLForConditionalGeneration, hf.Qwen2VLConfig, vision, {})


def qwen2_5_vl(folder: Path) -> Path:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 7,
        "window_size": 28,
        "out_hidden_size": 48,
        "fullatt_block_indexes": [1],
    }
    return _qwen(folder, hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLConfig, vision, {})


def qwen3_vl(folder: Path) -> Path:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 7,
        "out_hidden_size": 48,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {"head_dim": 12}
    return _qwen(folder, hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLConfig, vision, text)


def _qwen(folder: Path, kind: Any, config: Any, vision: dict[str, Any], text: Any) -> Path:
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokens = tokenizer({}, names, image="<|vision_start|><|image_pad|><|vision_end|>")
    start, end, image, video = tokens.convert_tokens_to_ids(names)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    made = config(
        vision_config={**vision, "initializer_range": 0.15},
        text_config={**TEXT, **text, "rope_parameters": rope},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    images = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
        patch_size=7, size={"shortest_edge": 14 * 14, "longest_edge": 56 * 56}
    )
    return _save(folder, kind, made, tokens, images)


def gemma3(folder: Path) -> Path:
    special = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokens = tokenizer(special, [], image="<start_of_image>")
    text = {"head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 12}
    boi, eoi, image = tokens.convert_tokens_to_ids([*special.values()])
    config = hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(
            **TEXT, **text, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        ),
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=image,
    )
    images = image_processing_pil_gemma3.Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    kind = hf.Gemma3ForConditionalGeneration
    return _save(folder, kind, config, tokens, images, image_seq_length=4)


def llava_onevision(folder: Path) -> Path:
    tokens = tokenizer({}, ["<image>", "<video>"], image="<image>")
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    image, video = tokens.convert_tokens_to_ids(["<image>", "<video>"])
    config = hf.LlavaOnevisionConfig(
        text_config=hf.Qwen2Config(**TEXT),
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_grid_pinpoints=grid,
        image_token_index=image,
        video_token_index=video,
    )
    images = image_processing_pil_llava_onevision.LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=grid
    )
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    kind = hf.LlavaOnevisionForConditionalGeneration
    return _save(folder, kind, config, tokens, images, **settings)


def internvl(folder: Path) -> Path:
    special = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokens = tokenizer(special, [], image="<IMG_CONTEXT>")
    vision = {**VISION, "image_size": [28, 28], "patch_size": [7, 7]}
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(**TEXT, tie_word_embeddings=True),
        vision_config=hf.InternVLVisionConfig(**vision),
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    kind = hf.InternVLForConditionalGeneration
    return _save(folder, kind, config, tokens, images, image_seq_length=4)


def qwen2_audio(folder: Path) -> Path:
    names = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokens = tokenizer({}, names, sound="<|audio_bos|><|AUDIO|><|audio_eos|>")
    config = hf.Qwen2AudioConfig(
        text_config=hf.Qwen2Config(**TEXT),
        audio_config=hf.Qwen2AudioEncoderConfig(
            num_mel_bins=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=48,
            d_model=32,
            max_source_positions=50,
            init_std=0.15,
        ),
        audio_token_index=tokens.convert_tokens_to_ids("<|AUDIO|>"),
    )
    sounds = hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    kind = hf.Qwen2AudioForConditionalGeneration
    return _save(folder, kind, config, tokens, sounds)


def voxtral(folder: Path) -> Path:
    tokens = tokenizer({}, ["[BEGIN_AUDIO]", "[AUDIO]"])
    tokens.chat_template = tiny.CHAT  # it knows texts only
    config = hf.VoxtralConfig(
        text_config=hf.LlamaConfig(**TEXT),
        audio_config=hf.VoxtralEncoderConfig(
            num_mel_bins=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_size=32,
            intermediate_size=64,
            max_source_positions=50,
            initializer_range=0.15,
        ),
        audio_token_id=tokens.convert_tokens_to_ids("[AUDIO]"),
    )
    sounds = hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return _save(folder, hf.VoxtralForConditionalGeneration, config, tokens, sounds)


def _save(folder: Path, kind: Any, config: Any, tokens: Any, part: Any, **settings: Any) -> Path:
    torch.manual_seed(0)
    model = kind._from_config(config, dtype=torch.float32).eval()
    for name, weight in model.named_parameters():
        if "projection_weight" in name:  # Gemma 3 begins with zeros, which no image would pass
            torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    part.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


IMAGES = {
    "gemma3": gemma3,
    "idefics3": idefics3,
    "internvl": internvl,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
}
SOUNDS = {"qwen2_audio": qwen2_audio, "voxtral": voxtral}
FAMILIES = IMAGES | SOUNDS
