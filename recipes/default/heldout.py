"""Held-out measurement of weights of the default model, to choose between them.

    python recipes/default/heldout.py PREPARED MODEL [MODEL ...] [--rows 180] [--out FILE]

PREPARED has the files of prepare.py, MODEL is a folder or ``default``. The questions are held-out
rows of Natural Questions, AdversarialQA and Quoref, rows of DuoRC, which is not trained on, and
questions by form up to the number of rows.

Measured are answers from the right passage alone with a block of either kind, retrieval among a
pool of passages, the choice among its first five (cosine, mean log-likelihood of the question after
the passage, both), the answer from the chosen passage, the rank correlation of held-out scored
pairs, and the divergence from the base on held-out conversations. The first model is compared with
each other one, question by question.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from questions import NOWHERE
from scipy.stats import spearmanr

from gritlm import GritLM
from gritlm.evaluation import answers
from gritlm.evaluation.rag.blocks import BlockCache
from gritlm.evaluation.rag.decode import PromptToRead, replies
from gritlm.evaluation.rag.prompts import PromptFormat, form_for
from gritlm.lm.chat import conversation
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.prompts import for_question, gritlm_instruction
from gritlm.rag.fusion import read_question
from gritlm.train import losses

SOURCES = ("rag-nq", "rag-reading", "rag-wiki")
POOL = 400  # passages to search in
HITS = 5  # passages to choose from
NEW_TOKENS = 12
BATCH = 20  # questions answered together
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # of the cosine beside the log-likelihood
CHATS = 60  # held-out conversations
KINDS = ("bidirectional", "causal")


@dataclass(frozen=True)
class Question:
    """A question, its answers, and the place of its passage in the pool."""

    text: str
    answers: tuple[str, ...]
    gold: int


@dataclass
class Scores:
    """Scores by name: of every question, and of the whole."""

    rows: dict[str, list[float]] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prepared", type=Path, metavar="PREPARED")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--rows", type=int, default=180, help="most questions")
    parser.add_argument("--out", type=Path, help="file for the scores of all rows, as JSON")
    chosen = parser.parse_args()
    questions, pool = held_out(chosen.prepared, chosen.rows)
    sys.stdout.write(f"{len(questions)} questions, {len(pool)} passages\n")
    found: dict[str, Scores] = {}
    for name in chosen.models:
        found[name] = measure(name, questions, pool, chosen.prepared)
        sys.stdout.write(table(name, found[name], next(iter(found.values()))))
        sys.stdout.flush()
        if chosen.out:
            values = {key: {"rows": s.rows, "whole": s.whole} for key, s in found.items()}
            chosen.out.write_text(json.dumps(values), encoding="utf-8")


def held_out(prepared: Path, most: int) -> tuple[list[Question], list[str]]:
    """Return the questions and the pool of passages, the same ones for every model."""
    kept = _read(prepared / "heldout-rag.jsonl")
    rows = [
        *(row for source in SOURCES[:2] for row in kept if row["source"] == source),
        *_read(prepared / "apart-rag-plots.jsonl"),
        *(row for row in kept if row["source"] == SOURCES[2]),
    ]
    rows = [row for row in rows if row["answer"] != NOWHERE][:most]
    texts = [_text(row["documents"][0]) for row in rows]
    texts += [_text(document) for row in rows for document in row["documents"][1:]]
    pool = list(dict.fromkeys(texts))[: max(POOL, len(rows))]
    place = {text: at for at, text in enumerate(pool)}
    questions = [
        Question(row["question"], (row["answer"],), place[_text(row["documents"][0])])
        for row in rows
    ]
    return questions, pool


def measure(name: str, questions: Sequence[Question], pool: list[str], prepared: Path) -> Scores:
    """Return all scores of a model."""
    model = GritLM(None if name == "default" else name)
    scores = Scores()
    cosine_QP = _cosines(model, questions, pool)
    _retrieval(scores, questions, cosine_QP)
    hits_QH = cosine_QP.topk(HITS, dim=1).indices.tolist()
    form = form_for(model)
    for kind in KINDS:
        blocks = BlockCache(model.lm, causal=kind == "causal")
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            golds = [pool[question.gold] for question in part]
            _answer(scores, f"right passage, {kind}", model, form, blocks, part, golds)
            likelihoods = []
            for at, question in enumerate(part, start=start):
                texts = [pool[i] for i in hits_QH[at]]
                likelihoods.append(_likelihoods(model, form, blocks, question.text, texts))
            rows = hits_QH[start : start + BATCH]
            cosines = [cosine_QP[start + at, hits] for at, hits in enumerate(rows)]
            _choose(scores, kind, part, rows, cosines, likelihoods)
            best = [
                pool[hits[int((score + 4.0 * cosine).argmax())]]
                for hits, score, cosine in zip(rows, likelihoods, cosines, strict=True)
            ]
            _answer(scores, f"chosen passage, {kind}", model, form, blocks, part, best)
    scores.whole["scored pairs, Spearman"] = _scored(model, prepared / "heldout-scored.jsonl")
    scores.whole["KL from the base"] = _divergence(model, prepared / "heldout-generative.jsonl")
    return scores


def _cosines(model: GritLM, questions: Sequence[Question], pool: list[str]) -> torch.Tensor:
    with torch.inference_mode():
        query_QD = torch.as_tensor(model.encode_query([question.text for question in questions]))
        passage_PD = torch.as_tensor(model.encode_document(pool))
        return query_QD.float() @ passage_PD.float().T


def _retrieval(scores: Scores, questions: Sequence[Question], cosine_QP: torch.Tensor) -> None:
    for row_P, question in zip(cosine_QP, questions, strict=True):
        rank = int((row_P > row_P[question.gold]).sum())
        gain = 1 / math.log2(rank + 2) if rank < 10 else 0.0
        _add(scores, "retrieval, NDCG@10", gain)
        _add(scores, f"retrieval, recall@{HITS}", float(rank < HITS))


def _answer(
    scores: Scores,
    name: str,
    model: GritLM,
    form: PromptFormat,
    blocks: BlockCache,
    questions: Sequence[Question],
    passages: Sequence[str],
) -> None:
    """Add match and F1 of the answers, each from one passage as a block."""
    found = blocks.of(form.embedded(passages))
    prompts = [
        PromptToRead(form.tail(question.text, [passage]), [block])
        for question, passage, block in zip(questions, passages, found, strict=True)
    ]
    written = replies(model.lm, prompts, end_ids=model.end_ids, max_new_tokens=NEW_TOKENS)
    for question, reply in zip(questions, written, strict=True):
        text = model.tokenizer.decode(reply.ids, skip_special_tokens=True)
        _add(scores, f"{name}: match", answers.match(text, question.answers))
        _add(scores, f"{name}: F1", answers.f1(text, question.answers))


@torch.inference_mode()
def _likelihoods(
    model: GritLM, form: PromptFormat, blocks: BlockCache, question: str, passages: list[str]
) -> torch.Tensor:
    """Return the mean log-likelihood of the question after each passage."""
    tail = form.tokens.for_chat(for_question(question), start=False)
    (span,) = tail.trained
    batch = RowBatch(model.lm, blocks.of(form.embedded(passages)), room=len(tail.ids))
    return torch.tensor(read_question(batch, tail.ids, span))


def _choose(
    scores: Scores,
    kind: str,
    questions: Sequence[Question],
    hits: Sequence[Sequence[int]],
    cosines: Sequence[torch.Tensor],
    likelihoods: Sequence[torch.Tensor],
) -> None:
    """Add whether the right passage is chosen: by cosine, by likelihood, by both."""
    for question, row, cosine, score in zip(questions, hits, cosines, likelihoods, strict=True):
        if kind == KINDS[0]:
            _add(scores, "choice by cosine", float(row[int(cosine.argmax())] == question.gold))
        for weight in WEIGHTS:
            best = row[int((score + weight * cosine).argmax())]
            name = f"choice by likelihood + {weight:g} cosine, {kind}"
            _add(scores, name, float(best == question.gold))


def _scored(model: GritLM, path: Path) -> float:
    rows = _read(path)
    same = gritlm_instruction("Retrieve semantically similar text")
    with torch.inference_mode():
        sides = [
            torch.as_tensor(
                model.encode([row[side] for row in rows], instruction=gritlm_instruction(same))
            ).float()
            for side in ("sentence1", "sentence2")
        ]
    cosines = torch.nn.functional.cosine_similarity(*sides)
    return 100 * float(spearmanr(cosines.numpy(), [row["score"] for row in rows]).statistic)


def _divergence(model: GritLM, path: Path) -> float:
    """Return KL(base || model) a token over the answers of held-out conversations."""
    base = GritLM("base")
    form = form_for(model)
    total = count = 0.0
    for row in _read(path)[:CHATS]:
        prompt = conversation(form.tokens, row["messages"], template=model.settings.template)
        ids_1L = torch.tensor(prompt.ids[:400])[None]
        labels_1L = torch.full_like(ids_1L, losses.IGNORE)
        for start, end in prompt.trained:
            labels_1L[0, start:end] = ids_1L[0, start:end]
        if not (tokens := int((labels_1L[:, 1:] != losses.IGNORE).sum())):
            continue
        with torch.inference_mode():
            ours, theirs = (
                each.lm.causal(ids_1L, use_cache=False).logits for each in (model, base)
            )
            total += tokens * float(losses.kl_to(ours, theirs, labels_1L))
        count += tokens
    return total / count


def table(name: str, scores: Scores, first: Scores) -> str:
    """Return the scores of a model, with 95% intervals and differences from the first model."""
    lines = [f"\n## {name}", "| | score | interval | against the first |", "|---|---:|---:|---:|"]
    for key, values in scores.rows.items():
        low, high = _interval(values)
        line = f"| {key} | {100 * np.mean(values):.1f} | {low:.1f} to {high:.1f} |"
        if first is not scores:
            gap = np.subtract(values, first.rows[key])
            low, high = _interval(gap)
            line += f" {100 * gap.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
        lines.append(f"{line} |")
    lines += [f"| {key} | {value:.4g} | | |" for key, value in scores.whole.items()]
    return "\n".join(lines) + "\n"


def _interval(values: Any, draws: int = 2000) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean, in percent."""
    random = np.random.default_rng(0)
    rows = np.asarray(values, dtype=float)
    means = rows[random.integers(0, len(rows), (draws, len(rows)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(low), 100 * float(high)


def _add(scores: Scores, name: str, value: float) -> None:
    scores.rows.setdefault(name, []).append(value)


def _text(document: dict[str, str]) -> str:
    return f"{document['title']} {document['text']}".strip()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
