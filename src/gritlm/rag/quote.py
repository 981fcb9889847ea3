"""Quote of an answer: the sentence of its passage that answers the question best.

Each sentence of the passage is read alone with the title of its document, and scored as the fusion
of passages scores a passage (:mod:`gritlm.rag.fusion`): by the mean log-probability of the question
behind it, and by the cosine as the calibration of the model weighs it. Causal blocks tell sentences
apart better than bidirectional ones. A small model often answers in fewer words than the question
asks for; the sentence has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gritlm.lm.gritlm import GritLM
from gritlm.rag.answer import Source
from gritlm.rag.fusion import SpannedIds
from gritlm.rag.plan import PromptAssembler, rows_together
from gritlm.rag.rerank import likelihood_scores
from gritlm.rag.retrieve import Vector
from gritlm.rag.reuse.reuse_check import blocks_of

_CJK = r"[\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f]"
_BRACKET = r"[\"'”’」』）》】)\]]"
# A quotation ends a sentence unless a particle follows: 「行く。」と言った is one sentence.
_CLOSED = rf"(?:{_BRACKET}++(?!と|って)|(?!{_BRACKET}))"
# An end of a sentence, or of a paragraph. Chinese and Japanese have no space after it.
_END = re.compile(
    rf"[.!?…]{_BRACKET}*+\s+|[。！？；｡][。！？；｡!?]*+{_CLOSED}\s*"
    rf"|(?<={_CJK})(?:…++|[!?]++){_CLOSED}\s*|\n\s*\n\s*"
)
ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", "Dr.", "Mr.", "Mrs.", "Ms.", "No.", "St.", "v.")


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage.

    Attributes:
        source: id of the passage.
        text: the sentence.
        start: offset of its first character in the text of the passage.
        end: offset behind its last character.
        score: number by which the sentences of the passage are ranked; None for the only one.
    """

    source: str
    text: str
    start: int
    end: int
    score: float | None = None


def best_sentence(
    model: GritLM,
    assembler: PromptAssembler,
    vector_D: Vector,
    question: SpannedIds,
    source: Source,
) -> Quote:
    """Return the sentence of a passage that answers a question best; the first of equal ones.

    Args:
        model: the model.
        assembler: lays out prompts for the model.
        vector_D: embedding of the question (D,).
        question: token ids of the question after a passage.
        source: the passage.
    """
    spans = sentence_spans(source.text)
    if len(spans) == 1:
        return _quote(source, spans[0], None)
    texts = [f"{source.title} {source.text[start:end]}".strip() for start, end in spans]
    scores = _scores(model, assembler, vector_D, question, texts)
    best = max(range(len(spans)), key=scores.__getitem__)
    return _quote(source, spans[best], scores[best])


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return begin and end of each sentence of a text, without the space around it.

    A text without an end of a sentence is one sentence.
    """
    spans = []
    start = 0
    for end in re.finditer(_END, text):
        if text[start : end.end()].rstrip().endswith(ABBREVIATIONS):
            continue
        spans.append((start, end.end()))
        start = end.end()
    spans.append((start, len(text)))
    stripped = [_stripped(text, *span) for span in spans]
    return [(begin, end) for begin, end in stripped if begin < end] or [(0, len(text))]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _scores(
    model: GritLM,
    assembler: PromptAssembler,
    vector_D: Vector,
    question: SpannedIds,
    texts: Sequence[str],
) -> list[float]:
    """Return the score of each text, from its vector and its causal KV block."""
    longest = model.lm.max_positions or 1 << 20
    vectors_ND = model.encode_document(
        list(texts), convert_to_tensor=True, max_length=longest, show_progress_bar=False
    )
    query_1D = torch.as_tensor(vector_D, device=vectors_ND.device)[None]
    cosines = model.similarity(query_1D, vectors_ND)[0].tolist()
    read = assembler.passage_ids(texts)
    scores: list[float] = []
    while len(scores) < len(texts):
        rest = read[len(scores) :]
        together = rows_together([len(ids) + len(question.ids) for ids in rest])
        blocks = blocks_of(model.lm, rest[:together], causal=True)
        some = cosines[len(scores) : len(scores) + together]
        scores += likelihood_scores(model, blocks, some, question)
    return scores


def _quote(source: Source, span: tuple[int, int], score: float | None) -> Quote:
    start, end = span
    return Quote(source.id, source.text[start:end], start, end, score)
