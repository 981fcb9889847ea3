"""The recipe of the small senses: captions, edit distance, and passes of the frozen decoder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPE = Path(__file__).parents[2] / "recipes" / "senses"
NAMES = ("frozen_decoder", "pictures", "sound_words", "speech")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the scripts, which import each other by their plain names."""
    monkeypatch.syspath_prepend(str(RECIPE))
    yield RECIPE
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def decoder(recipe: Path, default_folder: Path) -> Any:
    from frozen_decoder import Decoder

    return Decoder(torch.float32)


def test_words_of_file_names_and_titles(recipe: Path) -> None:
    from pictures import words_of

    assert words_of("apple_and_pear_01") == "apple and pear"
    assert words_of("SleepingBear's cave") == "sleeping bear cave"


@pytest.mark.parametrize(
    ("found", "wanted", "distance"),
    [([], [1, 2], 2), ([1, 2, 3], [1, 2, 3], 0), ([1, 3], [1, 2, 3], 1), ([4, 5], [5, 4], 2)],
)
def test_edit_distance(recipe: Path, found: list[int], wanted: list[int], distance: int) -> None:
    import sound_words

    assert sound_words.distance(found, wanted) == distance


def test_embeddings_of_words_as_media_tokens_embed_as_the_text(decoder: Any) -> None:
    text = "a red triangle"
    ids = decoder._tokens.pieces([text], first=False)[0]
    with torch.no_grad():
        found = decoder.embed(decoder.rows(ids)[None])[0]
    wanted = torch.from_numpy(decoder.model.encode_document([text])[0])
    assert torch.allclose(found, wanted, atol=1e-5)


def test_questions_that_share_a_picture_do_not_see_each_other(decoder: Any) -> None:
    states = decoder.rows(decoder.ids(" red triangle"))
    turns = [("what is the color?", "red"), ("is there a circle?", "no")]
    with torch.no_grad():
        together, labels = decoder.answer_logits(states, turns)
        alone = [decoder.answer_logits(states, [turn]) for turn in turns]
    assert torch.equal(labels, torch.cat([label for _, label in alone]))
    apart = torch.cat([logits for logits, _ in alone])
    assert torch.allclose(together, apart, atol=1e-3)
