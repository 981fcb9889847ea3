"""Rows become prompts with exact spans, and false negatives are told apart."""

from __future__ import annotations

from random import Random

import pytest
import torch

from gritlm.errors import InputError
from gritlm.lm.chat import conversation
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.train.config import DataConfig
from gritlm.train.data import packing
from gritlm.train.data.collate import Collator, key
from gritlm.train.data.examples import ChatExample, EmbeddingExample, InstructedText
from gritlm.train.objectives import losses
from tests import tiny

TURNS = [
    {"role": "user", "content": "say one"},
    {"role": "assistant", "content": "the quick fox"},
    {"role": "user", "content": "and two"},
    {"role": "assistant", "content": "jumps over"},
]


def collator(template: str = "gritlm", **data: object) -> Collator:
    tokens = SegmentTokenizer(tiny.tokenizer())
    return Collator(tokens, ModelSettings(template=template), DataConfig(**data))


def row(query: str, positives: list[str], negatives: list[str] = []) -> EmbeddingExample:  # noqa: B006
    return EmbeddingExample(
        InstructedText(query),
        tuple(map(InstructedText, positives)),
        tuple(map(InstructedText, negatives)),
    )


def draws(count: int) -> list[Random]:
    return [Random(number) for number in range(count)]


@pytest.mark.parametrize("template", ["gritlm", "tokenizer"])
def test_of_several_turns_exactly_the_answers_and_their_ends_are_trained(template):
    """Defect 1 of the reference: headers were trained, the ends of middle answers were not."""
    tokens = SegmentTokenizer(tiny.tokenizer())
    if template == "tokenizer":  # a template that ends its answers, as ChatML does
        tokens.tokenizer.chat_template = (
            "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
            "{% if m['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
        )
    prompt = conversation(tokens, TURNS, template=template)
    labels = packing.padded([prompt]).labels_BL[0]
    decode = tokens.tokenizer.decode
    said = [decode(prompt.ids[start:end]) for start, end in prompt.trained]
    assert said == ["the quick fox</s>", "jumps over</s>"]
    trained = labels[labels != losses.IGNORE].tolist()
    assert decode(trained) == "the quick fox</s>jumps over</s>"


def test_an_answer_without_an_end_in_its_template_is_trained_alone():
    prompt = conversation(SegmentTokenizer(tiny.tokenizer()), TURNS[:2], template="tokenizer")
    tokens = tiny.tokenizer()
    assert [tokens.decode(prompt.ids[slice(*span)]) for span in prompt.trained] == ["the quick fox"]


def test_a_conversation_is_cut_and_one_that_leaves_nothing_is_none():
    whole = collator().chat(ChatExample(tuple(TURNS)))
    start, _ = whole.trained[0]
    cut = collator(generative_max_len=start + 1).chat(ChatExample(tuple(TURNS)))
    assert (cut.ids, cut.trained) == (whole.ids[: start + 1], ((start, start + 1),))
    assert collator(generative_max_len=start).chat(ChatExample(tuple(TURNS))) is None


def test_each_query_is_followed_by_its_positive_and_negatives():
    rows = [row("a", ["a1", "a2"], ["n1", "n2", "n3"]), row("b", ["b1"]), row("c", ["c1"], ["n4"])]
    batch = collator(train_group_size=3).embedding(rows, draws(3))
    texts = batch.passage_texts
    assert texts[0] in ("a1", "a2")
    assert {texts[1], texts[2]} < {"n1", "n2", "n3"}
    assert texts[3:] == ["b1", "c1", "n4"]  # no negatives is no crash (defect 12)
    assert batch.keys.first_P.tolist() == [True, False, False, True, True, False]
    assert len(batch.queries) == 3


def test_instructions_are_seen_and_not_pooled():
    made = collator().embedding(
        [
            EmbeddingExample(
                InstructedText("cats", "find"),
                (InstructedText("dogs"), InstructedText("dogs", "in park")),
            )
        ],
        draws(1),
    )
    decode = tiny.tokenizer().decode
    (query,) = made.queries
    assert decode(query.ids) == "<s><|user|>\nfind\n<|embed|>\ncats"
    assert decode(query.ids[slice(*query.pooled)]) == "cats"


def test_false_negatives_are_equal_passages_and_positives_of_the_same_query():
    rows = [
        row("who?", ["Ann has a ball.", "ann has a BALL"], ["Bob"]),
        row("where?", ["In the park"], ["Ann has a ball"]),
        row("Who", ["Her name is Ann"]),
    ]
    batch = collator().embedding(rows, draws(3))
    mask = batch.keys.false_negatives()
    #        who: Ann, Bob | where: park, Ann(neg) | Who: name
    assert mask.tolist() == [
        [True, False, False, True, True],
        [False, False, True, False, False],
        [True, False, False, False, True],
    ]
    query, passage = torch.randn(3, 8), torch.randn(5, 8)
    positives = batch.keys.first_P.nonzero()[:, 0]
    masked = losses.contrastive(
        query[:1], passage, temperature=0.1, positives=positives[:1], mask_QP=mask[:1]
    )
    kept = losses.contrastive(
        query[:1], passage[[0, 1, 2]], temperature=0.1, positives=positives[:1]
    )
    assert torch.allclose(masked, kept)


def test_a_key_ignores_case_space_and_the_end_of_a_sentence_and_is_never_zero():
    assert key("Ann has  a ball!") == key("ann has a BALL")
    assert key("a != b") != key("a = b")
    assert key("ann") != key("anna")
    assert key("?!") != key("...")
    assert key("") > 0


def test_an_instruction_without_room_names_the_setting():
    with pytest.raises(InputError, match=r"query_max_len = 6: .*no room.*a long instruction"):
        collator(query_max_len=6).embedding(
            [
                EmbeddingExample(
                    InstructedText("cats", "a long instruction about cats"), (InstructedText("b"),)
                )
            ],
            draws(1),
        )
