"""The library with images and sound: mixed inputs, chats, refusals."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from gritlm import GritLM, SamplingParams
from gritlm.errors import InputError, ModelError
from gritlm.lm.chat_template import needs_parts
from gritlm.lm.generator import complete
from gritlm.lm.media.files import LOCAL
from gritlm.lm.media.media_chat import chat_prompt
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from tests.lm.media.checkpoints import TEMPLATE, idefics_tokens
from tests.lm.media.conftest import image, sound


def test_vectors_of_mixed_inputs_are_in_one_space(seeing):
    inputs = ["A text.", image(), {"text": "t", "image": image(1)}, ["a", image(2)]]
    vectors = seeing.encode(inputs)
    assert vectors.shape == (4, seeing.embedding_dimension)
    assert seeing.encode(image()).shape == (seeing.embedding_dimension,)
    queries = seeing.encode_query([image(), "A text."])
    documents = seeing.encode_document([{"title": "T", "image": image()}, {"text": "A text."}])
    assert seeing.similarity(queries, documents).shape == (2, 2)
    np.testing.assert_allclose(
        seeing.encode({"image": image()}), seeing.encode([image()])[0], rtol=0, atol=1e-6
    )


def test_an_instruction_is_read_and_not_pooled(seeing):
    header = "<|user|>\nFind the picture\n<|embed|>\n"
    plain = seeing.encode([image()])
    instructed = seeing.encode([image()], instruction=header)
    pooled = seeing.encode([image()], instruction=header, embed_instruction=True)
    assert not np.allclose(plain, instructed, atol=1e-3)
    assert not np.allclose(pooled, instructed, atol=1e-3)


def test_inputs_with_media_are_held_in_windows(seeing, monkeypatch):
    expected = seeing.encode([image(seed) for seed in range(5)])
    monkeypatch.setattr("gritlm.lm.encoder.WINDOW", 2)
    found = seeing.encode([image(seed) for seed in range(5)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_blocks_are_in_the_order_of_the_inputs(seeing):
    _, blocks = seeing.encode([image(), "A text.", image(1)], get_cache=True)
    assert [min(block.token_ids.tolist()) < 0 for block in blocks] == [True, False, True]
    same, other = (
        [n for n in block.token_ids.tolist() if n < 0]
        for block in seeing.encode([image(), image(1)], get_cache=True)[1]
    )
    assert same == [n for n in blocks[0].token_ids.tolist() if n < 0]
    assert not set(same) & set(other)


def test_an_input_with_an_image_is_not_cut(seeing):
    with pytest.raises(InputError, match=r"input 1 of 2 has \d+ tokens, \d+ of them of images"):
        seeing.encode(["A text.", image()], max_length=20)
    with pytest.raises(InputError, match=r"the maximum is 512"):
        seeing.encode([[image(seed, (56, 56)) for seed in range(20)]])


def test_a_kind_that_the_model_does_not_read_is_refused(seeing, hearing):
    with pytest.raises(InputError, match="is a sound, this model reads text and image"):
        seeing.encode({"audio": sound()})
    with pytest.raises(InputError, match="is a image, this model reads text and sound"):
        hearing.encode({"image": image()})


@pytest.mark.parametrize("value", [image(), [image()], {"image": image()}, [{"audio": sound()}]])
def test_a_text_model_refuses_images_and_sounds(grit_of_text, value):
    with pytest.raises(InputError, match="this model reads text only") as raised:
        grit_of_text.encode(value)
    assert "\n" not in str(raised.value)


def test_a_chat_with_an_image_needs_a_model_for_it(grit_of_text):
    part = {"type": "image", "image": image()}
    with pytest.raises(InputError, match="this model reads text only"):
        grit_of_text.chat([{"role": "user", "content": [part]}])
    parts = [{"type": "text", "text": "One "}, {"type": "text", "text": "text."}]
    both = [
        grit_of_text.chat([{"role": "user", "content": content}], max_new_tokens=4)
        for content in (parts, "One text.")
    ]
    assert both[0] == both[1]


@pytest.fixture(scope="session")
def grit_of_text(tiny_model) -> GritLM:
    return GritLM(tiny_model(), dtype="float32", device="cpu")


def test_a_sound_that_is_too_long_for_the_model_is_refused(hearing):
    with pytest.raises(InputError, match=r"the sound of .*is 1\.5 s long, the model hears 1"):
        hearing.encode({"audio": sound(seconds=1.5)})


def test_a_sound_that_is_too_short_for_a_token_is_refused(hearing):
    with pytest.raises(InputError, match=r"too small for a single token|the processor"):
        hearing.encode({"audio": sound(seconds=0.005)})


def test_long_sounds_are_windows_where_the_model_takes_them(cases):
    model = cases("voxtral").grit
    lengths = [len(model.chat_prompt(_heard(s)).media[0].placeholders) for s in (0.5, 1.5, 2.5)]
    assert lengths == [lengths[0], 2 * lengths[0], 3 * lengths[0]]


def _heard(seconds: float) -> list[dict]:
    return [{"role": "user", "content": [{"type": "audio", "audio": sound(seconds=seconds)}]}]


def test_text_of_an_input_is_never_a_token_of_media(seeing):
    """The text names the tokens by which the template and the processor know an image."""
    part = {"type": "image", "image": image()}
    text = {"type": "text", "text": "Is <image> or <fake_token_around_image> an image?"}
    prompt = seeing.chat_prompt([{"role": "user", "content": [text, part, text]}])
    number = seeing.tokenizer.convert_tokens_to_ids("<image>")
    assert number not in prompt.ids
    assert len([n for n in prompt.ids if n < 0]) == len(prompt.media[0].placeholders)
    fake = seeing.tokenizer.convert_tokens_to_ids("<fake_token_around_image>")
    assert prompt.ids.count(fake) == prompt.media[0].ids.count(fake)


def test_a_template_that_drops_plain_texts_gets_parts(seeing):
    assert needs_parts(TEMPLATE)
    assert not needs_parts("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    ids = seeing.chat_ids("What is this?")
    assert "What is this?" in seeing.tokenizer.decode(ids)


IMAGES_FIRST = (  # in the manner of LLaVA-OneVision
    "{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}"
    "{% endfor %}\n{% endfor %}<|assistant|>\n"
)
EITHER = (  # in the manner of Qwen2-VL
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{% if part['type'] == 'image' or 'image' in part %}"
    "<image>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}<|assistant|>\n"
)


def prompt_by(template: str, senses, messages) -> str:
    """Return the prompt of a chat by a template as text, with ``*`` for tokens of an image."""
    made = idefics_tokens()
    made.chat_template = template
    prompt = chat_prompt(
        SegmentTokenizer(made),
        messages,
        senses=senses,
        template="tokenizer",
        start=True,
        rules=LOCAL,
    )
    text = made.decode([number if number >= 0 else 0 for number in prompt.ids])
    return text.replace("<pad>", "*")


def test_the_places_of_images_are_those_of_the_template(seeing):
    parts = [{"type": "text", "text": "Look: "}, {"type": "image", "image": image(size=(20, 20))}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    first = prompt_by(IMAGES_FIRST, seeing.senses, turns)
    assert first.index("*") < first.index("Look: ")
    inside = prompt_by(EITHER, seeing.senses, turns)
    assert inside.index("Look: ") < inside.index("*")
    assert "Be brief." in first
    assert "Be brief." in inside


def test_a_template_without_images_is_refused(seeing):
    parts = [image(), "What?"]
    with pytest.raises(InputError, match="another number of images than the 1 of the conv"):
        prompt_by(
            "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}"
            "{% endfor %}{% endfor %}",
            seeing.senses,
            [{"role": "user", "content": parts}],
        )


def test_penalties_and_drafts_ignore_the_tokens_of_images(seeing):
    part = {"type": "image", "image": image()}
    turns = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    plain = seeing.chat(turns, max_new_tokens=6)
    assert seeing.chat(turns, max_new_tokens=6, prompt_lookup_num_tokens=4) == plain
    assert seeing.chat(turns, max_new_tokens=6, repetition_penalty=1.3, frequency_penalty=0.2)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "robot", "content": ["x"]}], "message 0 has role 'robot'"),
        ([{"role": "user", "content": [{"type": "hologram"}]}], "part 0 of message 0 has the type"),
        ([{"role": "user", "content": []}], "message 0 is empty"),
        (
            [{"role": "user", "content": [image()]}, {"role": "assistant", "content": "x"}],
            "the last message is the assistant's",
        ),
    ],
)
def test_a_bad_conversation_gets_one_clear_line(seeing, messages, said):
    with pytest.raises(InputError, match=said):
        seeing.chat(messages)


def test_conversations_go_on_after_a_cached_image(seeing):
    _, (block,) = seeing.encode([image()], get_cache=True)
    part = {"type": "image", "image": image(1)}
    assert seeing.chat("What is it?", kv=block, max_new_tokens=3)
    assert seeing.chat([{"role": "user", "content": [part, "?"]}], kv=block, max_new_tokens=3)


def test_transformers_generates_after_a_cached_image_where_positions_are_ordinary(seeing, cases):
    _, (block,) = seeing.encode([image()], get_cache=True)
    ids = seeing.tokenizer("What?", return_tensors="pt")
    assert seeing.generate(ids, kv=block, max_new_tokens=3).shape[1] > ids["input_ids"].shape[1]
    other = cases("qwen2_vl").grit
    _, (block,) = other.encode([image()], get_cache=True)
    with pytest.raises(InputError, match="use chat"):
        other.generate(other.tokenizer("What?", return_tensors="pt"), kv=block, max_new_tokens=3)


def test_texts_are_cut_as_ever_next_to_images(seeing, caplog):
    with caplog.at_level(logging.WARNING):
        seeing.encode(["word " * 400, image()], max_length=100)
    assert "1 of 1 texts are longer than max_length=100" in caplog.text


def test_a_quantised_model_reads_images_too(cases):
    case = cases("idefics3")
    model = GritLM(case.folder, dtype="float32", device="cpu", quantization="int8")
    vectors = model.encode([image(), "A text."])
    cosine = case.grit.similarity_pairwise(vectors, case.grit.encode([image(), "A text."]))
    assert cosine.min() > 0.95
    assert model.chat([{"role": "user", "content": [image(), "What?"]}], max_new_tokens=3)


def test_a_model_that_reads_images_is_not_written_as_gguf(seeing, tmp_path):
    with pytest.raises(ModelError, match="GGUF file holds text models"):
        seeing.export(tmp_path / "model.gguf", form="gguf")


def test_the_size_of_a_model_has_its_towers(seeing):
    assert seeing.num_parameters() > seeing.lm.causal.num_parameters()
    assert seeing.memory_bytes() >= 4 * seeing.num_parameters()


def test_a_prompt_without_its_images_is_refused(seeing):
    prompt = seeing.chat_prompt([{"role": "user", "content": [image(), "What?"]}])
    other = seeing.chat_prompt([{"role": "user", "content": [image(1), "What?"]}])
    with pytest.raises(InputError, match="not passed with the prompt"):
        next(
            complete(
                seeing.lm,
                Prompt(prompt.ids, media=other.media),
                sampler=SamplingParams().sampler(),
                max_new_tokens=2,
            )
        )
