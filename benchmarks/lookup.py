"""Speed of decoding with drafts from the prompt, compared with one token a pass.

    python -m benchmarks.lookup [--model FOLDER] [--tokens 64] [--repeats 3]

Answers about the example passages that quote them, short answers about the same, and chats. Both
sides take turns in one run; only the time after the first token counts, as CPU time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time

from benchmarks.common import machine, table
from gritlm import GritLM, SamplingParams
from gritlm.rag import AnswerOptions, RagEngine

CORPUS = Path(__file__).parents[1] / "examples" / "corpus"
QUOTE = "Repeat the text above word for word. {}"
CHATS = (
    "What is a volcano?",
    "Write a short story about a dog.",
    "Give me a list of ten animals with a sentence about each.",
    "Explain how a bicycle works.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    model = GritLM(chosen.model)
    with tempfile.TemporaryDirectory() as folder, RagEngine.open(folder, model) as engine:
        engine.add(CORPUS / "passages.jsonl")
        asked = [row["text"] for row in rows("questions")]
        sides = {"one token a pass": 0, "with drafts": SamplingParams().prompt_lookup_num_tokens}

        def answers(texts: Iterable[str], most: int) -> Iterator[Iterable[str]]:
            sampling = SamplingParams(chosen.tokens, prompt_lookup_num_tokens=most)
            for text in texts:
                yield engine.stream(text, replace(AnswerOptions(), sampling=sampling))

        def chats(_: Iterable[str], most: int) -> Iterator[Iterable[str]]:
            settings = {"max_new_tokens": chosen.tokens, "prompt_lookup_num_tokens": most}
            for text in CHATS:
                yield model.chat(text, stream=True, **settings)

        kinds = {
            "answers that quote": ([QUOTE.format(text) for text in asked], answers),
            "short answers": (asked, answers),
            "chats": (CHATS, chats),
        }
        print(f"{machine()}, {model.dtype}, at most {chosen.tokens} tokens\n")
        lines = []
        for kind, (texts, streams) in kinds.items():
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            outputs: dict[str, list[str]] = {}
            for _ in range(chosen.repeats):
                for side, most in sides.items():
                    measured = [decoded(stream) for stream in streams(texts, most)]
                    outputs[side] = [text for text, _ in measured]
                    seconds[side].append(sum(taken for _, taken in measured))
            plain, drafted = (median(each) for each in seconds.values())
            one, other = outputs.values()
            same = sum(a == b for a, b in zip(one, other, strict=True))
            size = sum(len(model.tokenizer(text)["input_ids"]) for text in other)
            lines.append(
                [
                    kind,
                    f"{size / plain:.1f}",
                    f"{size / drafted:.1f}",
                    f"{plain / drafted:.2f}",
                    f"{same} of {len(one)}",
                ]
            )
        head = ["", "one token a pass, tokens/s", "with drafts", "ratio", "same text"]
        print(table(head, lines))


def decoded(pieces: Iterable[str]) -> tuple[str, float]:
    """Return a text, and the CPU seconds after its first piece."""
    stream = iter(pieces)
    first = next(stream, "")
    started = process_time()
    return first + "".join(stream), process_time() - started


def rows(name: str) -> list[dict[str, str]]:
    text = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


if __name__ == "__main__":
    main()
