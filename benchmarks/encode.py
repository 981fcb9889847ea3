"""Speed of embedding, compared with sentence-transformers and with unsorted batches.

    python -m benchmarks.encode [--model FOLDER] [--texts 160] [--repeats 5]

All sides have the same weights, threads and texts, and take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import alternate, machine, mixed_texts, speeds
from gritlm import GritLM, gritlm_instruction

BATCH = 32
HEADER = gritlm_instruction()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=None, help="checkpoint folder; default: the default model"
    )
    parser.add_argument("--texts", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    ours = GritLM(chosen.model)
    texts = mixed_texts(chosen.texts)
    lengths = [len(ids) for ids in ours.tokenizer([HEADER + text for text in texts])["input_ids"]]
    with tempfile.TemporaryDirectory() as folder:
        same = sentence_transformer(Path(ours.source), Path(folder) / "same", ours.dtype)
        default = sentence_transformer(Path(ours.source), Path(folder) / "default", None)
    sides = {
        "gritlm": lambda: ours.encode(texts, instruction=HEADER),
        f"sentence-transformers, {ours.dtype}": lambda: same.encode(texts, prompt=HEADER),
        "sentence-transformers, its defaults": lambda: default.encode(texts, prompt=HEADER),
        f"unsorted batches of {BATCH}": lambda: unsorted(ours, texts),
    }
    agreement = np.sum(
        ours.encode(texts, instruction=HEADER) * same.encode(texts, prompt=HEADER), axis=1
    )
    taken = alternate(sides, repeats=chosen.repeats)
    print(f"{machine()}, gritlm in {ours.dtype}")
    print(
        f"{len(texts)} texts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all; "
        f"cosine between both sides' vectors "
        f"{np.median(agreement):.4f} (median), {agreement.min():.4f} (least)\n"
    )
    print("tokens a second:\n")
    print(speeds(taken, dict.fromkeys(sides, float(sum(lengths))), "gritlm"))


def sentence_transformer(
    source: Path, folder: Path, dtype: torch.dtype | None, *, attention: str | None = None
) -> Any:
    """The peer over the same weights: bidirectional, mean pooling, normalised.

    Args:
        dtype: format of the weights; None for the peer's default.
        attention: implementation of the attention; None for the peer's default.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("chat_template*", "gritlm*"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"is_causal": False}), encoding="utf-8")
    chosen = {"dtype": dtype, "attn_implementation": attention}
    given = {name: value for name, value in chosen.items() if value is not None}
    options = {"model_kwargs": given} if given else {}
    body = modules.Transformer(str(folder), max_seq_length=512, **options)
    if dtype is None:
        body = body.float()  # what it loads a checkpoint without a stated format as
    pool = modules.Pooling(
        body.get_embedding_dimension(), pooling_mode="mean", include_prompt=False
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SentenceTransformer(modules=[body, pool, modules.Normalize()], device=device)


@torch.inference_mode()
def unsorted(model: GritLM, texts: list[str]) -> None:
    """Embed texts with a plain loop: batches in the given order, padded to their longest text."""
    for start in range(0, len(texts), BATCH):
        chosen = [HEADER + text for text in texts[start : start + BATCH]]
        batch = model.tokenizer(
            chosen, padding=True, truncation=True, max_length=512, return_tensors="pt"
        ).to(model.device)
        ids = batch["input_ids"]
        mask = batch["attention_mask"]
        hidden = model.lm.decoder(ids, attention_mask=mask, is_causal=False).last_hidden_state
        weight = mask[..., None].to(hidden.dtype)
        torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1).float()


if __name__ == "__main__":
    main()
