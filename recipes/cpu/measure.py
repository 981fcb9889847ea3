"""What a model can do before and after training, on sets that nothing is trained on.

    python recipes/cpu/measure.py MODEL [MODEL ...] --data DATA [--heldout FILE] [--json FILE]

MODEL is a folder, an adapter's folder, a hub id, or `default`. The figures:
similarity: Spearman correlation of cosine and rating, STS benchmark, English development split;
retrieval: Natural Questions, the last 300 rows' questions among all distinct gold passages;
loss: mean cross-entropy of an assistant's token, in the chat format that the model itself uses.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nq
import numpy as np
import torch
from scipy.stats import spearmanr

from gritlm import GritLM, gritlm_instruction
from gritlm.lm.chat import Message, conversation
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.train.losses import next_token
from gritlm.train.pack import padded

SIMILAR = gritlm_instruction("Retrieve semantically similar text")
QUESTION = gritlm_instruction("Given a question, retrieve passages that answer it")
PASSAGE = gritlm_instruction()

CHATS = 200  # held-out conversations
PROBLEMS = 100  # solutions of GSM8K
LONGEST = 1024  # tokens of a conversation

Figures = dict[str, float]


def main() -> None:
    chosen = arguments()
    results: dict[str, Figures] = {}
    for name in chosen.models:
        model = GritLM(None if name == "default" else name, dtype=chosen.dtype)
        results[name] = figures(model, chosen)
        del model
    sys.stdout.write(table(results) + "\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a folder, or: default")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder a data set")
    parser.add_argument("--heldout", type=Path, help="heldout-generative.jsonl of prepare.py")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="some figures"
    )
    parser.add_argument(
        "--others", type=int, help="so many passages of other rows to search in; default: all"
    )
    parser.add_argument("--limit", type=int, help="so many rows of each: to try it, not to compare")
    parser.add_argument("--dtype", help="float32 or bfloat16; default: the fastest here")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


def figures(model: GritLM, chosen: argparse.Namespace) -> Figures:
    """Figures by name; none for held-out chats where no file is given."""
    found: Figures = {}
    for part in chosen.only:
        found |= PARTS[part](model, chosen)
    return found


def similarity(model: GritLM, chosen: argparse.Namespace) -> Figures:
    path = chosen.data / "stsbenchmark" / "data" / "stsb-en-dev.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[: chosen.limit]
    ones, others = (
        model.encode([row[side] for row in rows], instruction=SIMILAR) for side in (0, 1)
    )
    cosine_N = model.similarity_pairwise(ones, others).numpy()
    ratings_N = [float(row[2]) for row in rows]
    return {"STS-B dev, Spearman": float(spearmanr(cosine_N, ratings_N).statistic)}


def retrieval(model: GritLM, chosen: argparse.Namespace) -> Figures:
    """Each question has one right passage; questions may share it."""
    entries = nq.all_rows(chosen.data / "nq-open-oracle")
    measured = entries[nq.TRAINED :][: chosen.limit]
    others = 4 * chosen.limit if chosen.limit else chosen.others
    if others is not None:
        entries = entries[:others] + measured
    passages = list(dict.fromkeys(entry.passages[0] for entry in entries))
    query_QD = model.encode([entry.question for entry in measured], instruction=QUESTION)
    passage_PD = model.encode_corpus(
        [{"title": title, "text": text} for title, text in passages], instruction=PASSAGE
    )
    right_Q = np.array([passages.index(entry.passages[0]) for entry in measured])
    score_QP = query_QD @ passage_PD.T
    right_score_Q1 = score_QP[np.arange(len(right_Q)), right_Q][:, None]
    rank_Q = (score_QP > right_score_Q1).sum(axis=1)
    return {
        "NQ, recall@1": float((rank_Q < 1).mean()),
        "NQ, recall@10": float((rank_Q < 10).mean()),
        "NQ, nDCG@10": float(np.where(rank_Q < 10, 1 / np.log2(rank_Q + 2), 0).mean()),
    }


def heldout(model: GritLM, chosen: argparse.Namespace) -> Figures:
    if chosen.heldout is None:
        return {}
    lines = chosen.heldout.read_text(encoding="utf-8").splitlines()
    chats = [json.loads(line)["messages"] for line in lines[: chosen.limit or CHATS]]
    return {"held-out chats, loss": loss(model, chats)}


def mathematics(model: GritLM, chosen: argparse.Namespace) -> Figures:
    path = chosen.data / "gsm8k" / "grade_school_math" / "data" / "test.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: chosen.limit or PROBLEMS]]
    chats = [
        [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        for row in rows
    ]
    return {"GSM8K solutions, loss": loss(model, chats)}


@torch.inference_mode()
def loss(model: GritLM, chats: Sequence[Sequence[Message]]) -> float:
    """Mean over all assistant tokens of all chats, the end tokens among them."""
    tokens, total, count = SegmentTokenizer(model.tokenizer), 0.0, 0
    template = model.settings.template
    for chat in chats:
        rows = padded([conversation(tokens, chat, template=template)])
        ids_1L = rows.ids_BL[:, :LONGEST].to(model.device)
        labels_1L = rows.labels_BL[:, :LONGEST].to(model.device)
        # "token" is the sum over a row
        total += float(next_token(model.lm.logits(ids_1L), labels_1L, kind="token"))
        count += int((labels_1L >= 0).sum())
    return total / count


PARTS: dict[str, Callable[[GritLM, argparse.Namespace], Figures]] = {
    "similarity": similarity,
    "retrieval": retrieval,
    "heldout": heldout,
    "mathematics": mathematics,
}


def table(results: dict[str, Figures]) -> str:
    """Markdown: one row a figure, one column a model."""
    names = list(results)
    lines = [["", *names], ["---", *["---:"] * len(names)]]
    for figure in results[names[0]]:
        lines.append([figure, *(f"{results[name][figure]:.4f}" for name in names)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
