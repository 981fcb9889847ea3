"""An answer from the stored block of a page against a fresh one, with weights of a real shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image, ImageDraw
from transformers.models.smolvlm import image_processing_pil_smolvlm

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.ingest.ingest import ChunkingOptions
from gritlm.rag.options import AnswerOptions
from tests.lm.media.checkpoints import TEXT, _save, idefics_tokens
from tests.rag.media.conftest import QUESTION, opened

SOONER = 5.0
# The text model is that of SmolVLM-256M, the tower has the size of SigLIP base; 100 tokens a tile.
DECODER = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "initializer_range": 0.04,
}
TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 320,
    "patch_size": 16,
}


def model_of(folder: Path) -> GritLM:
    tokens = idefics_tokens()
    config = hf.SmolVLMConfig(
        vision_config=hf.models.smolvlm.SmolVLMVisionConfig(**TOWER),
        text_config=hf.LlamaConfig(**{**TEXT, **DECODER}),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = image_processing_pil_smolvlm.SmolVLMImageProcessorPil(
        size={"longest_edge": 640}, max_image_size={"longest_edge": 320}
    )
    kind = hf.SmolVLMForConditionalGeneration
    _save(folder, kind, config, tokens, images, image_seq_len=100)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.mark.slow
def test_a_page_of_500_tokens_is_answered_five_times_sooner(tmp_path):
    model = model_of(tmp_path / "model")
    page = Image.new("RGB", (640, 640), "white")
    ImageDraw.Draw(page).text((40, 40), "Travel: 37", fill="black")
    page.save(tmp_path / "page.png")
    cutting = ChunkingOptions(max_tokens=64)
    first, texts = {}, {}
    with opened(tmp_path / "store", model, cutting=cutting) as engine, torch.inference_mode():
        engine.add([tmp_path / "page.png"])
        (hit,) = engine.retrieve(QUESTION)
        assert 500 <= len(engine._assembler.media.ids(hit.passage.id)) <= 560
        for mode in ("doc", "none", "doc", "none"):
            options = AnswerOptions(1, mode=mode, sampling=SamplingParams(max_new_tokens=16))
            answer = engine.answer(QUESTION, options, hits=[hit])
            first[mode] = answer.trace.milliseconds["first_token"]
            texts[mode] = answer.text
    print(first)
    assert texts["doc"] == texts["none"]
    assert first["none"] > SOONER * first["doc"]
