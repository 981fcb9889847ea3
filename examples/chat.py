"""Stream an answer, then ask about it in the same conversation.

python examples/chat.py "What is a volcano?" "How hot is it?"
"""

from __future__ import annotations

import sys

from gritlm import GritLM


def main(*questions: str, model: GritLM | None = None) -> None:
    """Print each question and its answer; earlier turns are part of the prompt."""
    model = GritLM() if model is None else model
    messages: list[dict[str, str]] = []
    for question in questions or ("What is a volcano?", "How hot is it?"):
        messages.append({"role": "user", "content": question})
        print(f"> {question}")
        answer = ""
        for piece in model.chat(messages, stream=True, max_new_tokens=48):
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main(*sys.argv[1:])
