"""Work of one of two processes that share a model; `test_tensor_parallel.py` starts them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from gritlm import GritLM
from gritlm.cli import main
from gritlm.errors import InputError

TEXTS = ["The quick brown fox", "Water", "Cats sleep most of the day. " * 6]


def results(model: GritLM) -> dict[str, object]:
    """Return vectors, vectors of other batches, and a greedy answer with and without a block."""
    _, block = model.encode("Water boils at 100 degrees.", get_cache=True)
    return {
        "vectors": model.encode(TEXTS).tolist(),
        "alone": [model.encode(text).tolist() for text in TEXTS],
        "answer": model.chat("Why?", max_new_tokens=12),
        "behind": model.chat("Why?", kv=block, max_new_tokens=12),
        "sampled": model.chat("Why?", max_new_tokens=12, temperature=1.0, seed=3),
    }


def run(folder: str, out: Path) -> None:
    rank = os.environ["RANK"]
    model = GritLM(folder, dtype="float32", device="cpu", tensor_parallel_size=2)
    found = results(model)
    try:
        model.chat("Why?", max_new_tokens=2, temperature=1.0)
    except InputError as error:
        found["refused"] = str(error)
    weight = model.lm.decoder.layers[0].self_attn.q_proj.weight
    local = weight.to_local() if hasattr(weight, "to_local") else weight
    found["share"] = local.shape[0] / model.lm.config.hidden_size
    half = GritLM(folder, dtype="bfloat16", device="cpu", tensor_parallel_size=2)
    found["half"] = half.encode(TEXTS).tolist()
    found["half answer"] = half.chat("Why?", max_new_tokens=3)
    (out / f"{rank}.json").write_text(json.dumps(found))
    words = ["--model", folder, "--dtype", "float32", "--device", "cpu"]
    words += ["--tensor-parallel-size", "2", "--output", str(out / "cli.npy")]
    sys.argv = ["gritlm", "embed", *TEXTS, *words]
    main()


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
