"""The bytes of all tokens are the text, whatever a vocabulary cuts characters into."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from gritlm.lm.generator import TextStream
from gritlm.lm.token_bytes import TokenBytes
from tests import tiny

TEXTS = [
    "🔥🦄👩‍🚀 🔥 a",
    "Ann has a red ball",
    " two  spaces",
    "你好 – ä",
    "\ufffd is a character",
    "🔥",
]


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's and Mistral's: a space in front, bytes for rare characters."""
    letters = [*"▁anhsredbltwopic", "▁a", "▁has"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {name: number for number, name in enumerate(names)}
    made = Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


TOKENIZERS = pytest.mark.parametrize("make", [tiny.tokenizer, sentencepiece])


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@TOKENIZERS
@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_all_tokens_are_the_streamed_text(make, text: str):
    tokenizer = make()
    found, ids = TokenBytes(tokenizer, ids_of(tokenizer, "a")), ids_of(tokenizer, text)
    whole = b"".join(found.of(token, first=place == 0) for place, token in enumerate(ids))
    assert whole.decode() == "".join(TextStream(tokenizer).pieces(ids)) == text


@TOKENIZERS
def test_a_part_of_a_character_is_named_by_its_bytes(make):
    tokenizer = make()
    found, ids = TokenBytes(tokenizer, ids_of(tokenizer, "a")), ids_of(tokenizer, "a🔥")
    parts = [found.name(token) for token in ids[-4:]]
    assert parts == [r"bytes:\xf0", r"bytes:\x9f", r"bytes:\x94", r"bytes:\xa5"]


@TOKENIZERS
def test_special_and_unknown_tokens_add_nothing_and_have_a_name(make):
    tokenizer = make()
    found = TokenBytes(tokenizer, ids_of(tokenizer, "a"))
    assert found.of(tokenizer.eos_token_id) == b""
    assert found.name(tokenizer.eos_token_id) == "</s>"
    assert found.name(10**6) == "token_id:1000000"
