"""Time to the first token of an answer about a page image: from its KV block, and from its pixels.

    python -m benchmarks.cached_images [--model FOLDER] [--repeats 3] [--tokens 8] [--dtype float32]

Without a model, it has random weights in the shape of SmolVLM-256M, whose page image has about 500
tokens. Both sides take turns in one run; the block is causal, so the texts must be the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tests import tiny
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from benchmarks.common import alternate, machine, table
from gritlm import GritLM, KVBlock, SamplingParams
from gritlm.lm.generator import complete
from gritlm.lm.tokens import Prompt

TEXT = {
    "vocab_size": 49280,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
PAGE = (1320, 1024)  # pixels, in 2 x 3 tiles with one of the whole page
QUESTION = "What is the total amount on this page?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = chosen.model or random_model(Path(made))
        model = GritLM(folder, device="cpu", dtype=chosen.dtype)
    page, question = prompts(model)
    with torch.inference_mode():
        block = model.lm.causal_block(torch.tensor(page.ids), media=page.media)
    whole = Prompt([*page.ids, *question], media=page.media)
    texts = [text(model, whole, None, chosen.tokens), text(model, question, block, chosen.tokens)]
    sides = {
        "from its pixels": lambda: next(tokens(model, whole, None, 1)),
        "from its KV block": lambda: next(tokens(model, question, block, 1)),
    }
    seconds = {side: median(s) for side, s in alternate(sides, repeats=chosen.repeats).items()}
    fresh = seconds["from its pixels"]
    print(f"{machine()}, {model.dtype}, {len(page.ids)} tokens of the page\n")
    head = ["first token", "seconds", "ratio", "same text"]
    rows = [[side, f"{taken:.2f}", f"{fresh / taken:.1f}", ""] for side, taken in seconds.items()]
    rows[1][3] = "yes" if texts[0] == texts[1] else "no"
    print(table(head, rows))


def prompts(model: GritLM) -> tuple[Prompt, list[int]]:
    """Return the prompt of a page image, and the token ids of a question after it."""
    pixels = np.random.default_rng(0).integers(0, 255, (*PAGE, 3), dtype=np.uint8)
    parts = [{"type": "image", "image": Image.fromarray(pixels)}]
    whole = model.chat_prompt([{"role": "user", "content": parts}])
    end = max(at for at, token in enumerate(whole.ids) if token < 0) + 2
    page = Prompt(whole.ids[:end], media=whole.media)
    return page, model.chat_ids(QUESTION, start=False)


def text(model: GritLM, prompt: Prompt | list[int], kv: KVBlock | None, count: int) -> list[int]:
    return list(tokens(model, prompt, kv, count))


def tokens(
    model: GritLM, prompt: Prompt | list[int], kv: KVBlock | None, count: int
) -> Iterator[int]:
    sampler = SamplingParams(count).sampler()
    return complete(model.lm, prompt, kv=kv, sampler=sampler, max_new_tokens=count)


def random_model(folder: Path) -> Path:
    """Write a model with random weights in the shape of SmolVLM-256M."""
    tokenizer = tiny.tokenizer()
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.chat_template = (
        "{% for m in messages %}User:{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    config = hf.Idefics3Config(
        vision_config=Idefics3VisionConfig(**VISION),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = hf.Idefics3ForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 1536}, max_image_size={"longest_edge": 512}
    )
    images.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"image_seq_len": 64}))
    return folder


if __name__ == "__main__":
    main()
