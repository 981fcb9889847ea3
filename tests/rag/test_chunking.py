from __future__ import annotations

import json
import random
from functools import cache
from itertools import pairwise
from time import perf_counter

import pytest
from blake3 import blake3

from gritlm.errors import InputError
from gritlm.rag.ingest.chunking import content_hash, cut
from gritlm.rag.types import Document
from tests import tiny

ODD = [
    "\n\n",
    "\n",
    " ",
    "\t",
    "\r\n",
    "日本語の文章。",
    "👨\u200d👩\u200d👧",
    "é",
    "x" * 90,
    "=" * 40,
    "\u00a0",
    "# Heading\n\n",
    "- item\n",
    "```\ncode = 1\n```\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
]


@cache
def tokenizer():
    return tiny.tokenizer()


def count(texts: list[str]) -> list[int]:
    return [len(ids) for ids in tokenizer()(texts)["input_ids"]]


def prose(sentences: int, seed: int = 0) -> str:
    """Paragraphs of known sentences."""
    pick = random.Random(seed)
    return "".join(
        pick.choice(tiny.SENTENCES) + pick.choice([" ", " ", " ", "\n\n"]) for _ in range(sentences)
    )


def noise(seed: int) -> str:
    pick = random.Random(seed)
    return "".join(pick.choice(ODD + tiny.SENTENCES) for _ in range(pick.randrange(1, 120)))


def uncovered(document: Document, passages) -> str:
    """What of the text is in no passage."""
    inside = [False] * len(document.text)
    for passage in passages:
        inside[passage.start : passage.end] = [True] * (passage.end - passage.start)
    return "".join(letter for letter, there in zip(document.text, inside, strict=True) if not there)


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_passages_hold_the_whole_text_within_the_limit(seed, markdown):
    pick = random.Random(seed)
    limit, overlap = pick.choice([(24, 0), (40, 8), (64, 0), (128, 30)])
    title = pick.choice(["", "A title", "Ann and Bob " * 30, "日本語" * 50])
    document = Document("d", noise(seed), title, markdown=markdown)
    passages = cut(document, tokens=count, max_tokens=limit, overlap=overlap)

    assert not uncovered(document, passages).strip()
    assert all(document.text[p.start : p.end] == p.text for p in passages)
    assert max(count([p.embedded for p in passages]), default=0) <= limit
    assert [p.number for p in passages] == list(range(len(passages)))
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(passages))
    assert passages == cut(document, tokens=count, max_tokens=limit, overlap=overlap)


def test_without_overlap_no_character_is_in_two_passages():
    passages = cut(Document("d", prose(60)), tokens=count, max_tokens=50)
    assert all(a.end <= b.start for a, b in pairwise(passages))


def test_with_overlap_a_passage_repeats_the_end_of_the_one_before():
    passages = cut(Document("d", prose(60)), tokens=count, max_tokens=80, overlap=39)
    shared = [a.end - b.start for a, b in pairwise(passages)]
    assert sum(size > 0 for size in shared) > len(shared) / 2


def test_borders_are_those_of_sentences():
    passages = cut(Document("d", " ".join(tiny.SENTENCES)), tokens=count, max_tokens=40)
    assert len(passages) > 2
    assert all(passage.text[-1] in ".?" for passage in passages)


def test_a_heading_of_markdown_begins_a_passage():
    text = f"# Foxes\n\n{tiny.SENTENCES[0]}\n\n# Water\n\n{tiny.SENTENCES[4]}\n"
    passages = cut(Document("d", text, markdown=True), tokens=count, max_tokens=28)
    assert [passage.text[:7] for passage in passages] == ["# Foxes", "# Water"]


def test_a_text_that_fits_is_one_passage():
    document = Document("d", "  Cats sleep.\n", "Cats", {"lang": "en"})
    (passage,) = cut(document, tokens=count, max_tokens=64)
    assert (passage.text, passage.start, passage.end) == ("Cats sleep.", 2, 13)
    assert (passage.title, passage.metadata) == ("Cats", {"lang": "en"})


def test_white_space_alone_is_no_passage():
    assert cut(Document("d", " \n\t " * 9000), tokens=count, max_tokens=64) == []


def test_white_space_between_far_words_hides_none_of_them():
    document = Document("d", f"first{' ' * 50_000}middle{' ' * 50_000}last")
    passages = cut(document, tokens=count, max_tokens=32)
    assert " ".join(passage.text for passage in passages).split() == ["first", "middle", "last"]


def test_the_same_content_has_the_same_ids_and_other_content_others():
    def ids(document: Document) -> list[str]:
        return [passage.id for passage in cut(document, tokens=count, max_tokens=40)]

    text = prose(10)
    first = ids(Document("d", text, "T"))
    assert len(set(first)) == len(first)
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in first)
    assert ids(Document("d", text, "T", {"lang": "en"})) == first
    assert not set(ids(Document("other", text, "T"))) & set(first)
    assert not set(ids(Document("d", text, "U"))) & set(first)


def test_a_change_at_the_end_leaves_the_passages_before_it_as_they_are():
    before, after = (
        cut(Document("d", prose(200) + end), tokens=count, max_tokens=40) for end in ("", "More.")
    )
    assert [p.id for p in before[:-2]] == [p.id for p in after[: len(before) - 2]]


def test_a_long_document_is_cut_as_its_parts_would_be():
    text = prose(1500)  # several stretches
    passages = cut(Document("d", text), tokens=count, max_tokens=100)
    sizes = count([passage.embedded for passage in passages])
    assert len(text) > 60_000
    assert sum(sizes) / len(sizes) > 60  # no small rests where a stretch ends
    assert all(passage.text[-1] in ".?" for passage in passages)


@pytest.mark.parametrize("text", ["x" * 100_000, "word " * 20_000], ids=["one word", "no sentence"])
def test_a_text_without_borders_takes_no_unbearable_time(text):
    started = perf_counter()
    passages = cut(Document("d", text), tokens=count, max_tokens=256)
    assert perf_counter() - started < 20
    assert not uncovered(Document("d", text), passages).strip()


@pytest.mark.parametrize(
    ("limit", "overlap", "said"),
    [
        (10, 0, "needs at least 18"),
        (64, 32, "expected 0 to 31"),
        (64, -1, "expected 0 to 31"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(limit, overlap, said):
    with pytest.raises(InputError, match=said):
        cut(Document("d", "text"), tokens=count, max_tokens=limit, overlap=overlap)


def test_the_hash_of_the_content_changes_with_all_that_passages_depend_on():
    document = Document("d", "text", "title", {"a": 1, "b": 2})
    one = content_hash(document, max_tokens=64)
    assert one == content_hash(Document("e", "text", "title", {"b": 2, "a": 1}), max_tokens=64)
    others = {
        content_hash(Document("d", "text!", "title", {"a": 1, "b": 2}), max_tokens=64),
        content_hash(Document("d", "text", "", {"a": 1, "b": 2}), max_tokens=64),
        content_hash(Document("d", "text", "title", {"a": 1}), max_tokens=64),
        content_hash(Document("d", "text", "title", {"a": 1, "b": 2}, True), max_tokens=64),
        content_hash(document, max_tokens=65),
        content_hash(document, max_tokens=64, overlap=1),
    }
    assert len(others) == 6
    assert one not in others


def version_1(document: Document) -> str:
    """Return the hash of a version without rules for Chinese, and without pages."""
    parts = [1, document.title, document.text, dict(document.metadata), document.markdown, 64, 0]
    return blake3(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@pytest.mark.parametrize(
    ("text", "pages", "same"),
    [
        ("One; two… “three.” Four.", (), True),
        ("天空是蓝色的。雨停了！", (), True),
        ("雨停了；风停了。", (), False),
        ("雨停了……风停了。", (), False),
        ("走吧。「もう行く。」", (), False),
        ("One page.", (0,), True),
        ("One page.\n\nAnother.", (0, 11), False),
    ],
)
def test_documents_of_older_versions_are_indexed_again_only_if_their_passages_change(
    text, pages, same
):
    document = Document("d", text, "title", {"a": 1}, pages=pages)
    assert (content_hash(document, max_tokens=64) == version_1(document)) == same
