"""Generative rows with answers of the base itself, to preserve its abilities.

    python recipes/default/own_answers.py DATA [DATA ...] --out FILE [--model base] [--cap 300]

DATA are JSONL files of ``{"messages": [user, assistant]}``; their answers are not read. Decoding is
greedy; answers that do not end within the limit are left out. The prompts have the model's own chat
format; training formats the rows as its run file says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from texts import number

from gritlm import GritLM
from gritlm.evaluation.rag.decode import PromptToRead, replies

ROWS = 16  # rows of a batch
LONGEST = 160  # maximum tokens of a prompt, template included


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="base", help="a folder, or: base")
    parser.add_argument("--cap", type=int, default=300, help="most prompts of a file")
    parser.add_argument("--max-new-tokens", type=int, default=160)
    chosen = parser.parse_args()
    prompts = [prompt for path in chosen.data for prompt in prompts_of(path, chosen.cap)]
    model = GritLM(chosen.model)
    rows = answers(model, prompts, max_new_tokens=chosen.max_new_tokens)
    with chosen.out.open("w", encoding="utf-8", newline="\n") as file:
        for done, (prompt, answer) in enumerate(rows, start=1):
            messages = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            sys.stderr.write(f"\r{done} answers")
    sys.stderr.write(f" to {len(prompts)} prompts\n")


def prompts_of(path: Path, cap: int) -> list[str]:
    """Return ``cap`` first user turns, chosen by a hash of their text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    prompts = dict.fromkeys(json.loads(line)["messages"][0]["content"] for line in lines)
    return sorted(prompts, key=number)[:cap]


def answers(
    model: GritLM, prompts: Sequence[str], *, max_new_tokens: int
) -> Iterator[tuple[str, str]]:
    """Yield (prompt, answer) of complete answers; prompts are batched by length."""
    asked = [(model.chat_ids(prompt), prompt) for prompt in prompts]
    asked = sorted((item for item in asked if len(item[0]) <= LONGEST), key=lambda i: len(i[0]))
    for start in range(0, len(asked), ROWS):
        batch = asked[start : start + ROWS]
        written = replies(
            model.lm,
            [PromptToRead(ids) for ids, _ in batch],
            end_ids=model.end_ids,
            max_new_tokens=max_new_tokens,
        )
        for (_, prompt), reply in zip(batch, written, strict=True):
            answer = model.tokenizer.decode(reply.ids).strip()
            if answer and len(reply.ids) < max_new_tokens:  # complete: it ended before the limit
                yield prompt, answer


if __name__ == "__main__":
    main()
