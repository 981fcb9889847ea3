"""Every family against transformers' own modules: states, vectors, cached continuations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from gritlm import GritLM
from gritlm.errors import InputError, ModelError
from gritlm.lm import generator
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.media.families import require_family
from gritlm.lm.media.files import LOCAL
from gritlm.lm.media.inputs import as_parts
from gritlm.lm.media.media_prompts import embedding_prompt
from gritlm.lm.tokens import Prompt
from tests.lm.media.checkpoints import FAMILIES, IMAGES
from tests.lm.media.conftest import Case, image

CLOSE = {"rtol": 0, "atol": 1e-4}
WINDOW = 8  # of the tiny Gemma 3
THREE_DIMENSIONS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}


@pytest.fixture(params=FAMILIES)
def case(request, cases) -> Case:
    return cases(request.param)


def prompt_of(case: Case, value: Any) -> Prompt:
    tokens = case.grit.encoder.tokens
    frame = tokens.embedding_frame(instruction="", end="", embed_instruction=False, specials=True)
    return embedding_prompt(
        as_parts(value, "the input", LOCAL),
        name="the input",
        tokens=tokens,
        senses=case.grit.senses,
        frame=frame,
        max_length=512,
        rules=LOCAL,
    )


def known_ids(prompt: Prompt) -> Tensor:
    """Return the ids with the placeholders of the vocabulary."""
    placeholder = prompt.media[0].placeholder
    return torch.tensor([[number if number >= 0 else placeholder for number in prompt.ids]])


def inputs_of(case: Case, prompt: Prompt) -> dict[str, Any]:
    """Return the inputs of all towers, as a processor joins them."""
    dim = 1 if case.name in ("idefics3", "smolvlm") else 0
    names = prompt.media[0].inputs
    return {name: torch.cat([m.inputs[name] for m in prompt.media], dim=dim) for name in names}


@torch.inference_mode()
def masked_states(case: Case, prompt: Prompt, whole: int) -> Tensor:
    """Return the states (L, D) of transformers' own model, block-masked.

    The first ``whole`` tokens attend to each other, the others to all tokens before them.
    """
    ids_1L = known_ids(prompt)
    size = ids_1L.shape[1]
    seen_LL = torch.ones(size, size, dtype=torch.bool).tril()
    seen_LL[:whole, :whole] = True
    mask: Any = seen_LL[None, None]
    if case.name == "gemma3":
        near_LL = seen_LL & torch.ones(size, size, dtype=torch.bool).triu(1 - WINDOW)
        near_LL[:whole] = seen_LL[:whole]  # a whole text has no window
        mask = {"full_attention": mask, "sliding_attention": near_LL[None, None]}
    inputs = inputs_of(case, prompt)
    if case.name in THREE_DIMENSIONS:
        kinds = (ids_1L == case.whole.config.image_token_id).int()
        inputs["position_ids"], _ = case.whole.model.get_rope_index(
            ids_1L, kinds, image_grid_thw=inputs["image_grid_thw"]
        )
    output = case.whole.model(input_ids=ids_1L, attention_mask=mask, use_cache=False, **inputs)
    return output.last_hidden_state[0]


@torch.inference_mode()
def full_logits(case: Case, prompt: Prompt) -> Tensor:
    """Return the logits (L, V) of transformers' own causal pass."""
    ids_1L = known_ids(prompt)
    inputs = inputs_of(case, prompt)
    config = case.whole.config
    kinds = (ids_1L == getattr(config, "image_token_id", -1)).int()
    if case.name in THREE_DIMENSIONS:
        case.whole.model.rope_deltas = None
        inputs["mm_token_type_ids"] = kinds
    if case.name == "gemma3":
        inputs["token_type_ids"] = kinds
    mask = torch.ones_like(ids_1L)
    return case.whole(input_ids=ids_1L, attention_mask=mask, use_cache=False, **inputs).logits[0]


def extended(prompt: Prompt, ids: list[int]) -> Prompt:
    return Prompt([*prompt.ids, *ids], media=prompt.media)


def test_a_vector_equals_the_mean_of_a_block_masked_pass(case):
    """All inputs of a call are computed in one pass; the reference computes each alone."""
    inputs = [
        {"text": "What is this?", **case.media(0)},
        [case.media(1), "Cats sleep most of the day."],
        case.media(2),
    ]
    vectors = case.grit.encode(inputs)
    for value, vector in zip(inputs, vectors, strict=True):
        prompt = prompt_of(case, value)
        states_LD = masked_states(case, prompt, len(prompt.ids))
        expected_D = torch.nn.functional.normalize(states_LD.mean(dim=0), dim=0)
        np.testing.assert_allclose(vector, expected_D.numpy(), **CLOSE)


def test_a_vector_does_not_depend_on_the_batch(case):
    inputs = [case.media(0), "A text.", [case.media(1), "and", "more"], "Another text of the call."]
    together = case.grit.encode(inputs)
    alone = np.stack([case.grit.encode([each])[0] for each in inputs])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(together[1::2], case.grit.encode(inputs[1::2]))


@pytest.mark.parametrize("causal", [True, False])
def test_what_follows_a_block_equals_a_full_pass(case, causal):
    """Also the steps of decoding: with M-RoPE, positions go on after those of the image."""
    grit = case.grit
    prompt = prompt_of(case, ["A picture:", case.media(3), "and a word."])
    if causal:
        with torch.inference_mode():
            block = grit.lm.causal_block(torch.tensor(prompt.ids), media=prompt.media)
    else:
        _, blocks = grit.encoder.vectors_and_blocks([prompt])
        block = blocks[0]
    assert block.token_ids.tolist() == prompt.ids
    assert (block.end is None) == (case.name not in THREE_DIMENSIONS)
    ids = grit.encoder.tokens.pieces([" What is it?"], first=False)[0]
    cache = prefix_cache(grit.lm, block, room=16)
    for _ in range(4):
        logits_V = prefill(grit.lm, cache, ids)
        prompt = extended(prompt, ids)
        if causal:
            expected_V = full_logits(case, prompt)[-1]
        else:
            states_LD = masked_states(case, prompt, block.tokens)
            with torch.inference_mode():
                expected_V = case.whole.lm_head(states_LD[-1])
        torch.testing.assert_close(logits_V, expected_V, **CLOSE)
        ids = [int(logits_V.argmax())]


def test_a_chat_writes_the_likeliest_tokens_of_full_passes(case):
    part = {"type": "audio" if case.hears else "image", **case.media(4)}
    turns = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    prompt = case.grit.chat_prompt(turns)
    assert len(prompt.media) == 1
    written = []
    for _ in range(4):
        token = int(full_logits(case, prompt)[-1].argmax())
        written.append(token)
        prompt = extended(prompt, [token])
    expected = case.grit.tokenizer.decode(written, skip_special_tokens=True)
    assert case.grit.chat(turns, max_new_tokens=4) == expected
    streamed = case.grit.chat(turns, max_new_tokens=4, stream=True)
    assert "".join(streamed) == expected


def test_texts_are_read_exactly_as_by_the_decoder_alone(case, tmp_path):
    texts = ["What is this?", "A model that reads, searches and writes."]
    if not case.grit.lm.causal.__class__.__module__.startswith("transformers"):
        with torch.inference_mode():
            ids_1L = torch.tensor([case.grit.tokenizer(texts[1])["input_ids"]])
            own = case.grit.lm.causal(ids_1L, use_cache=False).logits
            theirs = case.whole(input_ids=ids_1L, use_cache=False).logits
        torch.testing.assert_close(own, theirs, rtol=0, atol=0)
        return
    case.grit.lm.causal.save_pretrained(tmp_path)
    case.grit.tokenizer.save_pretrained(tmp_path)
    alone = GritLM(tmp_path, dtype="float32", device="cpu")
    assert alone.reads == ("text",)
    np.testing.assert_array_equal(case.grit.encode(texts), alone.encode(texts))
    assert case.grit.chat(texts[0], max_new_tokens=6) == alone.chat(texts[0], max_new_tokens=6)


@pytest.mark.parametrize("name", ["gemma3", "idefics3", "internvl", "qwen2_vl", "qwen3_vl"])
def test_two_images_of_an_input_stay_apart(cases, name):
    case = cases(name)
    parts = [image(5), "before", image(6, (56, 28)), "after"]
    prompt = prompt_of(case, parts)
    states_LD = masked_states(case, prompt, len(prompt.ids))
    expected_D = torch.nn.functional.normalize(states_LD.mean(dim=0), dim=0)
    np.testing.assert_allclose(case.grit.encode([parts])[0], expected_D.numpy(), **CLOSE)
    logits_V = full_logits(case, prompt)[-1]
    lm = case.grit.lm
    cache = lm.new_cache(len(prompt.ids))
    torch.testing.assert_close(
        prefill(lm, cache, prompt.ids, media=prompt.media), logits_V, **CLOSE
    )


@pytest.mark.parametrize("name", sorted(THREE_DIMENSIONS))
def test_a_block_with_positions_of_three_dimensions_is_not_moved(cases, name):
    case = cases(name)
    _, (block,) = case.grit.encode([case.media(7)], get_cache=True)
    assert block.end < block.tokens
    with pytest.raises(InputError, match="three dimensions"):
        block.move(5)
    with pytest.raises(InputError, match="cannot be joined"):
        type(block).join([block, block])
    with pytest.raises(InputError, match="cannot be cut"):
        block[:-1]
    assert block.move(0).end == block[1:].end == block.end


def test_a_block_at_ordinary_positions_is_moved_as_one_of_a_text(cases):
    case = cases("idefics3")
    lm = case.grit.lm
    _, (text, picture) = case.grit.encode(["Some text.", case.media(8)], get_cache=True)
    joined = type(text).join([text, picture[1:]])
    cache = prefix_cache(lm, [text, picture[1:]], room=4)
    torch.testing.assert_close(cache.layers[0].keys[0, :, : joined.tokens], joined.placed()[0, 0])


def test_a_saved_block_keeps_the_position_after_it(cases, tmp_path):
    case = cases("qwen2_vl")
    _, (block,) = case.grit.encode([case.media(9)], get_cache=True)
    read = type(block).load(block.save(tmp_path / "block.safetensors"))
    assert read.end == block.end
    assert read.token_ids.tolist() == block.token_ids.tolist()
    question = "What is it?"
    assert case.grit.chat(question, kv=read, max_new_tokens=4) == case.grit.chat(
        question, kv=block, max_new_tokens=4
    )


def test_a_mode_without_the_head_embeds_too(cases):
    case = cases("smolvlm")
    model = GritLM(case.folder, mode="embedding", dtype="float32", device="cpu")
    assert not model.lm.has_head
    inputs = [case.media(0), "A text."]
    np.testing.assert_allclose(model.encode(inputs), case.grit.encode(inputs), rtol=0, atol=1e-6)


def test_a_causal_embedding_of_an_image(cases):
    case = cases("gemma3")
    model = GritLM(case.folder, attn="cccc", dtype="float32", device="cpu")
    prompt = prompt_of(case, [case.media(0), "Some text."])
    vectors, blocks = model.encode([[case.media(0), "Some text."], "A text."], get_cache=True)
    with torch.inference_mode():
        kinds = (known_ids(prompt) == case.whole.config.image_token_id).int()
        states_LD = case.whole.model(
            input_ids=known_ids(prompt),
            attention_mask=torch.ones(1, len(prompt.ids)),
            token_type_ids=kinds,
            **inputs_of(case, prompt),
        ).last_hidden_state[0]
    expected_D = torch.nn.functional.normalize(states_LD.mean(dim=0), dim=0)
    np.testing.assert_allclose(vectors[0], expected_D.numpy(), **CLOSE)
    assert [block.causal for block in blocks] == [True, True]


def test_a_family_that_is_not_known_is_refused_by_its_name(tmp_path):
    hf.LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'llava' reads more than text.*gemma3, idefics3"):
        GritLM(tmp_path)


def test_a_family_that_cannot_be_taken_is_refused_with_the_reason():
    with pytest.raises(ModelError, match=r"'gemma3n' is not taken: .* share the keys"):
        require_family(SimpleNamespace(model_type="gemma3n"), "the folder")


def test_a_model_says_what_it_reads(cases):
    assert cases("idefics3").grit.reads == ("text", "image")
    assert cases("voxtral").grit.reads == ("text", "sound")
    assert set(IMAGES) | {"qwen2_audio", "voxtral"} == set(FAMILIES)


@pytest.mark.parametrize("name", ["gemma3", "idefics3", "internvl", "qwen3_vl", "voxtral"])
def test_a_saved_model_is_the_same_model(cases, name, tmp_path):
    case = cases(name)
    case.grit.save_pretrained(tmp_path)
    again = GritLM(tmp_path, dtype="float32", device="cpu")
    inputs = [{"text": "What is this?", **case.media(0)}, "A text."]
    np.testing.assert_array_equal(again.encode(inputs), case.grit.encode(inputs))
    assert again.reads == case.grit.reads
    assert again.chat("What?", max_new_tokens=4) == case.grit.chat("What?", max_new_tokens=4)


def test_a_prompt_in_pieces_equals_a_prompt_in_one(cases, monkeypatch):
    """Pieces end behind an image, whose tokens Gemma 3 reads together."""
    case = cases("gemma3")
    lm = case.grit.lm
    prompt = prompt_of(case, ["Some text before.", image(1), "and after it.", image(2), "more"])
    whole_V = prefill(lm, lm.new_cache(64), prompt.ids, media=prompt.media)
    monkeypatch.setattr(generator, "PIECE", 11)
    pauses: list[int] = []
    pieces_V = generator.prefill_in_pieces(
        lm, lm.new_cache(64), prompt.ids, lambda: pauses.append(1), media=prompt.media
    )
    assert pauses
    torch.testing.assert_close(pieces_V, whole_V, **CLOSE)
