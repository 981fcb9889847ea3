"""Whole conversations with images and sound: their tokens are those of a chat, and their spans."""

from __future__ import annotations

import pytest

from gritlm.lm.chat import conversation
from gritlm.lm.media.files import LOCAL
from gritlm.lm.media.inputs import ImagePart, InputText, Parts, SoundPart
from gritlm.lm.media.media_chat import chat_prompt, conversation_prompt
from tests.lm.media.checkpoints import FAMILIES, SOUNDS
from tests.lm.media.conftest import image, sound


def media(name: str, seed: int = 0) -> ImagePart | SoundPart:
    if name in SOUNDS:
        return SoundPart(sound(seed)["array"], "the sound", 16000)
    return ImagePart(image(seed), "the image")


def turns(name: str) -> list[dict[str, str | Parts]]:
    return [
        {"role": "user", "content": (media(name), InputText("What is the quick fox?"))},
        {"role": "assistant", "content": "It jumps </s> over."},
        {"role": "user", "content": (InputText("And"), media(name, 1), InputText("the dog?"))},
        {"role": "assistant", "content": "It sleeps."},
    ]


def options(case, template: str, messages) -> dict:
    senses = case.grit.senses
    return {"senses": senses, "template": template, "rules": LOCAL}


@pytest.mark.parametrize("template", ["gritlm", "tokenizer"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_answers_are_in_the_loss_and_follow_the_prompt_of_a_chat(cases, name, template):
    case = cases(name)
    tokens = case.grit.encoder.tokens
    messages = turns(name)
    whole = conversation_prompt(tokens, messages, **options(case, template, messages))
    assert [each.kind for each in whole.media] == ["sound" if case.hears else "image"] * 2
    ids = whole.ids
    texts = [tokens.tokenizer.decode(ids[start:end]) for start, end in whole.trained]
    end = "</s>" if template == "gritlm" else ""
    assert texts == [f"It jumps </s> over.{end}", f"It sleeps.{end}"]
    for number, (start, _) in enumerate(whole.trained):
        asked = [
            {"role": turn["role"], "content": _plain(turn["content"])}
            for turn in messages[: 2 * number + 1]
        ]
        prompt = chat_prompt(tokens, asked, start=True, **options(case, template, messages))
        assert ids[:start] == prompt.ids


def _plain(content):
    return content if isinstance(content, str) else list(content)


def test_a_context_answer_is_not_in_the_loss(cases):
    case = cases("smolvlm")
    for template in ("gritlm", "tokenizer"):
        whole = conversation_prompt(
            case.grit.encoder.tokens,
            turns("smolvlm"),
            context=(1,),
            **options(case, template, None),
        )
        (span,) = whole.trained
        assert "sleeps" in case.grit.tokenizer.decode(whole.ids[slice(*span)])


def test_without_media_the_paper_format_is_that_of_texts(cases):
    case = cases("smolvlm")
    tokens = case.grit.encoder.tokens
    messages = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "An answer."}]
    theirs = conversation(tokens, messages, template="gritlm")
    ours = conversation_prompt(tokens, messages, **options(case, "gritlm", None))
    assert (ours.ids, ours.trained) == (theirs.ids, theirs.trained)
