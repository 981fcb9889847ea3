"""All of the default model in one command: data, answers of the base, stages, mean of the last.

    python recipes/default/make.py DATA --teacher models/minilm [--until stage2] [--set KEY=VALUE]

DATA has a folder a data set. It writes ``data/default`` and ``runs/``, and goes on where it was
stopped: a finished stage is skipped, one with a checkpoint is resumed. ``--set`` changes a value of
every stage, as in `gritlm train`; the same command then has to repeat it. The last line names the
command that ships the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pack import mean_adapter
from questions import NOWHERE

HERE = Path(__file__).parent
PREPARED = Path("data/default")
RUNS = Path("runs")
FINAL = RUNS / "default-mean"
OWN = PREPARED / "generative-own.jsonl"
ANSWERED = ("nq", "reading", "wiki", "medquad", "dolly", "quac", "tldr")  # also without refusals
ASKED = ("alpaca", "dolly", "seed", "user", "gsm8k", "t0")  # chats whose prompts the base answers
MINED = ("paragraphs", "nq", "reading")  # pairs that get hard negatives
FINISHED = "adapter_model.safetensors"


@dataclass(frozen=True)
class Stage:
    """A run of training.

    Attributes:
        name: of the stage; its output is ``runs/default-NAME``.
        file: run file in this folder.
        changes: settings that differ from the file.
        mean: number of last checkpoints of the stage before whose mean it starts from; 0 for the
            base alone.
        own: options of own_answers.py, which runs before the stage; none: no new answers.
    """

    name: str
    file: str
    changes: tuple[str, ...] = ()
    mean: int = 1
    own: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        return RUNS / f"default-{self.name}"


def _more(steps: int, seed: int, pairs: int, answers: int, *changes: str) -> tuple[str, ...]:
    return (
        f"training.max_steps={steps}",
        f"training.seed={seed}",
        f"training.per_device_train_batch_size={pairs}",
        f"training.per_device_generative_bs={answers}",
        "training.save_total_limit=3",
        *changes,
    )


QUESTION_AS_BLOCK = (
    'rag.modes=["none", "doc", "doc", "doc", "doc", "query", "query", "doc-query", "doc-query", '
    '"query-doc", "query-doc"]'
)
STAGES = (
    Stage("stage1", "stage1.toml", mean=0),  # it learns to embed
    Stage("stage2", "stage2.toml", own=("--cap", "90")),  # both halves, and cached documents
    Stage("stage3", "stage3.toml"),  # more questions over passages
    Stage("stage4", "stage4.toml", own=("--cap", "120", "--max-new-tokens", "360")),
    Stage("stage5", "stage5.toml"),  # cached passages are held to fresh ones
    Stage("stage6", "stage5.toml", _more(70, 7, 16, 20)),
    Stage("stage7", "stage5.toml", _more(38, 11, 14, 20, "training.learning_rate=2.5e-4")),
    Stage(
        "stage8",
        "stage5.toml",
        _more(180, 13, 12, 24, "training.learning_rate=4e-4", "rag.max_documents=3"),
        mean=3,
    ),
    Stage(
        "stage9",
        "stage5.toml",
        _more(
            150, 17, 12, 24, "training.learning_rate=5e-4", "rag.max_documents=4", QUESTION_AS_BLOCK
        ),
        mean=3,
    ),
    # One cached passage, longer passages with hard negatives, answers of whole sentences
    Stage("stage10", "stage10.toml", mean=3, own=("--cap", "150", "--max-new-tokens", "200")),
    Stage("stage11", "stage11.toml", mean=3),  # without refusals
)
LAST = 3  # checkpoints of the last stage whose mean is the result
BLENDED = ("stage10", "stage11")  # the result is the mean of the start of one and the other's


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with a folder a data set")
    parser.add_argument("--teacher", default="models/minilm", help="a sentence-transformers model")
    parser.add_argument("--until", choices=[stage.name for stage in STAGES], default="stage11")
    parser.add_argument("--own", action="append", default=[], help="option of own_answers.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    chosen = parser.parse_args(arguments)
    prepare(chosen.data, chosen.teacher)
    changes = [f"loss.teacher={chosen.teacher}", *chosen.changes]
    names = [stage.name for stage in STAGES]
    stages = STAGES[: names.index(chosen.until) + 1]
    for before, stage in zip((None, *stages), stages, strict=False):
        train(stage, before, changes, chosen.own)
    result(stages)
    sys.stdout.write(f"made {FINAL}; to ship it: python recipes/default/pack.py {FINAL}\n")


def result(stages: Sequence[Stage]) -> Path:
    """Write the mean adapter of the last checkpoints; after the last stage, that of it and of the
    adapter which the first of the blended stages started from."""
    last = last_checkpoints(stages[-1].output, LAST)
    names = [stage.name for stage in stages]
    if names[-1] != BLENDED[1]:
        return mean_adapter(last, FINAL)
    first = names.index(BLENDED[0])
    begun = start(stages[first], stages[first - 1])
    return mean_adapter([begun, mean_adapter(last, RUNS / f"default-mean-{names[-1]}")], FINAL)


def prepare(data: Path, teacher: str) -> None:
    """Write the data files, unless they are there."""
    done = PREPARED / "prepared"
    if done.is_file():
        return
    _call(HERE / "prepare.py", data, PREPARED)
    mined = [PREPARED / f"embedding-{name}.jsonl" for name in MINED]
    _call(HERE / "negatives.py", *mined, "--teacher", teacher)
    for name in ANSWERED:
        leave_out_refusals(PREPARED / f"rag-{name}.jsonl", PREPARED / f"rag-{name}-answered.jsonl")
    done.touch()


def leave_out_refusals(path: Path, output: Path) -> None:
    """Write the questions of a file whose passages have the answer."""
    with path.open(encoding="utf-8") as lines, output.open("w", encoding="utf-8") as kept:
        kept.writelines(line for line in lines if json.loads(line)["answer"] != NOWHERE)


def train(stage: Stage, before: Stage | None, changes: Sequence[str], own: Sequence[str]) -> None:
    """Run a stage to its end, unless it is finished."""
    output = stage.output
    if (output / FINISHED).is_file():
        sys.stdout.write(f"{output}: finished before\n")
        return
    if stage.own and not last_checkpoints(output, 1):
        asked = [PREPARED / f"generative-{name}.jsonl" for name in ASKED]
        _call(HERE / "own_answers.py", *asked, "--out", OWN, *stage.own, *own)
    settings = [*stage.changes, f"training.output_dir={output}"]
    if before is not None:
        settings.append(f"model.adapter={start(stage, before)}")
    going_on = "resume_from_checkpoint" if last_checkpoints(output, 1) else "overwrite_output_dir"
    settings.append(f"training.{going_on}=true")
    options = [part for each in (*settings, *changes) for part in ("--set", each)]
    _call("-m", "gritlm", "train", HERE / stage.file, *options)


def start(stage: Stage, before: Stage) -> Path:
    """Return the adapter that a stage starts from."""
    if stage.mean == 1:
        return before.output
    return mean_adapter(
        last_checkpoints(before.output, stage.mean), RUNS / f"default-mean-{before.name}"
    )


def last_checkpoints(output: Path, count: int) -> list[Path]:
    """Return the last checkpoints of a run, at most ``count``, the newest one last."""
    return sorted(output.glob("checkpoint-*"))[-count:]


def _call(*command: object) -> None:
    words = [sys.executable, *map(str, command)]
    sys.stdout.write(f"+ {' '.join(words[1:])}\n")
    sys.stdout.flush()
    if code := subprocess.run(words, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
