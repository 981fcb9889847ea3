"""Speed of generating one sequence, compared with ``generate`` of transformers.

    python -m benchmarks.generate [--model FOLDER] [--tokens 128] [--repeats 5]

Greedy, batch 1; both sides take turns in one run.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForCausalLM

from benchmarks.common import alternate, machine, mixed_texts, speeds
from gritlm import GritLM
from gritlm.lm.generator import complete
from gritlm.lm.sampling import SamplingParams

PROMPT_TOKENS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=None, help="checkpoint folder; default: the default model"
    )
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    model = GritLM(chosen.model)
    peer = AutoModelForCausalLM.from_pretrained(model.source, dtype=model.dtype).to(model.device)
    text = " ".join(mixed_texts(24))
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"][:, :PROMPT_TOKENS]
    ids = ids.to(model.device)
    fixed = {"max_new_tokens": chosen.tokens, "min_new_tokens": chosen.tokens, "do_sample": False}

    def ours() -> list[int]:
        """The loop under ``chat``, without an end token so that all sides write as much."""
        stream = complete(
            model.lm,
            ids[0].tolist(),
            sampler=SamplingParams().sampler(),
            max_new_tokens=chosen.tokens,
        )
        return list(stream)

    def ours_generate() -> torch.Tensor:
        return model.generate(ids, **fixed)

    def theirs() -> torch.Tensor:
        return peer.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **fixed)

    sides = {"gritlm": ours, "gritlm generate()": ours_generate, "transformers generate()": theirs}
    same = sum(a == b for a, b in zip(ours(), theirs()[0, ids.shape[1] :].tolist(), strict=True))
    taken = alternate(sides, repeats=chosen.repeats)
    print(f"{machine()}, {model.dtype}, prompt of {ids.shape[1]} tokens")
    print(f"{same} of {chosen.tokens} greedy tokens are the same on both sides\n")
    print("tokens a second, prefill included:\n")
    print(speeds(taken, dict.fromkeys(sides, float(chosen.tokens)), "gritlm"))


if __name__ == "__main__":
    main()
