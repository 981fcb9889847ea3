"""Formats as token ids; borders of what is pooled and trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from gritlm import gritlm_instruction
from gritlm.errors import InputError
from gritlm.lm import tokens
from gritlm.lm.chat import chat_ids, template_for
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import CHAT_TEMPLATE, for_chat
from tests import tiny

HEADER = [1, 523, 28766, 18320, 28766, 28767, 13]
USER = [1, 523, 28766, 1838, 28766, 28767, 13]
EMBED = [13, 28789, 28766, 18320, 28766, 28767, 13]
ASSISTANT = [13, 28789, 28766, 489, 11143, 28766, 28767, 13]


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> SegmentTokenizer:
    """The Mistral v0.1 tokenizer, whose model file the package mistral-common carries."""
    from transformers import LlamaTokenizer

    package = pytest.importorskip("mistral_common", reason="mistral-common is not installed")
    folder = tmp_path_factory.mktemp("mistral")
    source = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    shutil.copy(source, folder / "tokenizer.model")
    return SegmentTokenizer(LlamaTokenizer.from_pretrained(folder, legacy=True, add_bos_token=True))


@pytest.fixture(scope="module")
def byte_level() -> SegmentTokenizer:
    return SegmentTokenizer(tiny.tokenizer())


def embedding_ids(tokens: SegmentTokenizer, text: str, instruction: str) -> list[int]:
    (prompt,), _ = tokens.for_embedding([text], max_length=512, instruction=instruction)
    return prompt.ids


def test_mistral_ids_without_instruction(mistral):
    text = "Hello there"
    ids = embedding_ids(mistral, text, gritlm_instruction())
    assert ids[:7] == HEADER
    assert ids == mistral.tokenizer(gritlm_instruction() + text)["input_ids"]


def test_mistral_ids_with_instruction(mistral):
    inner = mistral.pieces(["Find the abstract"], first=False)[0]
    ids = embedding_ids(mistral, "Bitcoin", gritlm_instruction("Find the abstract"))
    assert ids[: len(USER + inner + EMBED)] == USER + inner + EMBED


@pytest.mark.parametrize(
    "text", ["Bitcoin: A system", " two  spaces", "\nnew\n\nlines", "é 日本 🙂"]
)
def test_segments_give_the_ids_of_the_whole_string_for_mistral(mistral, text):
    whole = gritlm_instruction("Do it") + text
    ids = embedding_ids(mistral, text, gritlm_instruction("Do it"))
    assert ids == mistral.tokenizer(whole)["input_ids"]


def test_mistral_ids_of_a_chat(mistral):
    ids = chat_ids(mistral, "hi", template="gritlm")
    assert ids == [*USER, 5365, *ASSISTANT]
    assert ids.count(1) == 1


def test_a_chat_of_several_turns_equals_the_whole_string_for_mistral(mistral):
    turns = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    whole = "<|user|>\nOne?\n<|assistant|>\nTwo.</s>\n<|user|>\nThree?\n<|assistant|>\n"
    ids = chat_ids(mistral, turns, template="gritlm")
    # Behind </s> the whole-string tokenizer puts a stray space piece; the format has none.
    expected = mistral.tokenizer(whole)["input_ids"]
    assert [i for i in ids if i != 28705] == [i for i in expected if i != 28705]


def test_only_answers_with_their_end_are_trained(byte_level):
    turns = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": "Four."},
    ]
    prompt = byte_level.for_chat(for_chat(turns, answer=False))
    spans = [byte_level.tokenizer.decode(prompt.ids[a:b]) for a, b in prompt.trained]
    assert spans == ["Two.</s>", "Four.</s>"]


def test_special_tokens_inside_of_a_text_are_plain_characters(byte_level):
    (prompt,), _ = byte_level.for_embedding(["a </s> <s> b"], max_length=64)
    assert prompt.ids.count(2) == 0
    assert prompt.ids.count(1) == 1
    assert byte_level.tokenizer.decode(prompt.ids[1:]) == "a </s> <s> b"


def test_special_tokens_inside_of_a_message_are_plain_characters(byte_level):
    ids = chat_ids(byte_level, "end </s> now", template="tokenizer")
    assert 2 not in ids
    assert "end </s> now" in byte_level.tokenizer.decode(ids)


def test_a_marker_inside_of_a_text_does_not_move_the_pooled_span(byte_level):
    instruction = gritlm_instruction("Look")
    head = len(embedding_ids(byte_level, "x", instruction)) - 1
    (prompt,), _ = byte_level.for_embedding(
        ["see <|embed|>\nhere"], max_length=64, instruction=instruction
    )
    assert prompt.pooled == (head, len(prompt.ids))
    assert byte_level.tokenizer.decode(prompt.ids[head:]) == "see <|embed|>\nhere"


def test_without_an_instruction_the_first_token_is_pooled_too(byte_level):
    (prompt,), _ = byte_level.for_embedding(["text"], max_length=64)
    assert prompt.pooled == (0, len(prompt.ids))


def test_a_continued_chat_has_no_second_start(byte_level):
    ids = chat_ids(byte_level, "hi", template="gritlm", start=False)
    assert 1 not in ids
    assert byte_level.tokenizer.decode(ids) == "\n<|user|>\nhi\n<|assistant|>\n"


def test_an_instruction_that_leaves_no_room_names_the_text(byte_level):
    with pytest.raises(InputError, match=r"text 0 of 2 has no room.*max_length is 10"):
        byte_level.for_embedding(
            ["a", "b"], max_length=10, instruction=gritlm_instruction("x" * 40)
        )


def test_the_tokenizer_of_the_user_is_left_as_it_was():
    tokenizer = tiny.tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    SegmentTokenizer(tokenizer).for_embedding(["some text"] * 3, max_length=4)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer("</s>")["input_ids"] == [1, 2]


def test_a_private_copy_is_the_tokenizer_of_the_user_without_cutting_and_padding():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["a new word", AddedToken("<b>", lstrip=True, special=True)])
    backend = tokenizer.backend_tokenizer
    bare = Tokenizer.from_str(backend.to_str())
    backend.enable_padding(length=30)
    backend.enable_truncation(2)
    copy = tokens._assembled(backend)
    assert copy is not None
    assert json.loads(copy.to_str()) == json.loads(bare.to_str())
    backend.add_tokens(["a later word"])
    assert copy.token_to_id("a later word") is None


def test_a_tokenizer_that_cannot_be_assembled_is_copied_as_text(monkeypatch):
    tokenizer = tiny.tokenizer()
    assembled = tokens._private_copy(tokenizer, literal=True)
    monkeypatch.setattr(tokens, "_signature", lambda _: object())  # no two tokens are equal
    assert tokens._assembled(tokenizer.backend_tokenizer) is None
    copied = tokens._private_copy(tokenizer, literal=True)
    assert json.loads(copied.to_str()) == json.loads(assembled.to_str())


def test_the_template_is_chosen_by_what_the_tokenizer_brings():
    tokenizer = tiny.tokenizer()
    assert template_for(tokenizer, "auto") == "tokenizer"
    assert template_for(tokenizer, "gritlm") == "gritlm"
    tokenizer.chat_template = CHAT_TEMPLATE
    assert template_for(tokenizer, "auto") == "gritlm"
    tokenizer.chat_template = None
    assert template_for(tokenizer, "auto") == "gritlm"


def test_the_template_in_jinja_says_the_same_as_the_segments():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    segments = for_chat(turns)
    assert rendered == "<s>" + "".join(s.text + "</s>" * s.end for s in segments)
    assert "Be brief.\n\nOne?" in rendered


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "empty"),
        ([{"role": "robot", "content": "x"}], "'robot'"),
        ([{"role": "user"}], "message 0"),
        (["hello"], "message 0"),
        ([{"role": "user", "content": ""}], "empty"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "assistant's"),
    ],
)
def test_a_broken_conversation_is_refused(byte_level, messages, said):
    with pytest.raises(InputError, match=said):
        chat_ids(byte_level, messages, template="gritlm")
