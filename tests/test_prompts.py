"""The formats, character for character."""

from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import RAG_FORMS, for_rag
from tests import tiny

CLOSINGS = {
    "none": "\n<|user|>\nWho?\n\nAnswer the prior query while optionally using the context prior "
    "to it\n<|assistant|>\n",
    "query": "\n<|user|>\nCats.\n\nDogs.\n\nOptionally using the prior context answer the query "
    "prior to it\n<|assistant|>\n",
    "doc": "\n<|user|>\nWho?\n\nAnswer the prior query while optionally using the context prior "
    "to it\n<|assistant|>\n",
    "doc-query": "\n<|user|>\nAnswer the prior query while optionally using the context prior to it"
    "\n<|assistant|>\n",
    "query-doc": "\n<|user|>\nOptionally using the prior context answer the query prior to it"
    "\n<|assistant|>\n",
}


@pytest.mark.parametrize("mode", RAG_FORMS)
def test_the_tail_of_each_rag_mode_is_the_published_text(mode):
    segments = for_rag(mode, question="Who?", documents=["Cats.", "Dogs."])
    assert "".join(segment.text for segment in segments) == CLOSINGS[mode]
    assert not any(segment.trained or segment.end for segment in segments)


@pytest.mark.parametrize("mode", RAG_FORMS)
def test_question_and_documents_are_read_exactly_once(mode):
    form = RAG_FORMS[mode]
    read = [*form.before, *([form.fresh] if form.fresh else [])]
    assert sorted(read) == ["documents", "question"]


def test_the_tail_tokenised_in_segments_is_the_tail_tokenised_whole():
    tokens = SegmentTokenizer(tiny.tokenizer())
    for mode, text in CLOSINGS.items():
        segments = for_rag(mode, question="Who?", documents=["Cats.", "Dogs."])
        assert tokens.for_chat(segments, start=False).ids == tokens.pieces([text], first=False)[0]


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(InputError, match="expected one of none, query, doc, doc-query, query-doc"):
        for_rag("docs", question="Who?", documents=["Cats."])
