"""Train an adapter on both objectives, then load it. Needs the extra `train`.

python examples/finetune.py runs/example
"""

from __future__ import annotations

import sys
from pathlib import Path

from gritlm import GritLM
from gritlm.train import TrainConfig, train

RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.toml"


def main(run: str = "runs/example", *overrides: str) -> None:
    """Train a few steps and embed with the trained model.

    Args:
        run: folder of the run; it must not hold another run.
        overrides: settings such as ``training.max_steps=4``.
    """
    config = TrainConfig.from_toml(RECIPE, [f"training.output_dir={run}", *overrides])
    result = train(config)
    print(f"{result.steps} steps: {result.output_dir}")
    model = GritLM(result.output_dir)
    vectors = model.encode(["How large is a louse?", "A louse is as large as a sesame seed."])
    print(f"cosine of question and answer: {float(model.similarity(vectors[:1], vectors[1:])):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
