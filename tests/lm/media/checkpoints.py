"""Tiny random checkpoints of families that read images or sound, with their processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf

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
    image = "<image>"
    extra = ["<fake_token_around_image>", image, "<end_of_utterance>", "<global-img>"]
    extra += [f"<row_{row}_col_{column}>" for row in (1, 2, 3, 4) for column in (1, 2, 3, 4)]
    tokens = tokenizer({}, extra, image=image)
    config = hf.Idefics3Config(
        vision_config=hf.models.idefics3.Idefics3VisionConfig(**VISION),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_id=tokens.convert_tokens_to_ids(image),
        scale_factor=2,
        pad_token_id=0,
    )
    size = {"longest_edge": 56}
    images = hf.models.idefics3.image_processing_pil_idefics3.Idefics3ImageProcessorPil(
        size=size, max_image_size={"longest_edge": 28}
    )
    return _save(folder, hf.Idefics3ForConditionalGeneration, config, tokens, images, image_seq_len=4)


def _save(
    folder: Path, kind: Any, config: Any, tokens: Any, part: Any, **settings: Any
) -> Path:
    torch.manual_seed(0)
    model = kind._from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    part.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


FAMILIES = {"idefics3": idefics3}
