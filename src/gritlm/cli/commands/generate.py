"""``gritlm generate``: the answer to a single prompt."""

from __future__ import annotations

from typing import Annotated

import typer

from gritlm.cli import files, terminal
from gritlm.cli.options import ModelOptions, SamplingOptions
from gritlm.errors import InputError


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt. Default, or for -: read stdin.")
    ] = None,
    *,
    sampling: SamplingOptions,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the answer when it is complete.")
    ] = False,
    model: ModelOptions,
) -> None:
    """Answer a single prompt."""
    if model.tensor_parallel_size > 1 and prompt in (None, files.STDIN):
        raise InputError(
            f"--tensor-parallel-size {model.tensor_parallel_size} and stdin: each process would "
            "read a part of the prompt; pass it as an argument"
        )
    text = _prompt(prompt)
    lm = model.load(mode="generative", parallel=True)
    answer = lm.chat(text, stream=not no_stream, **sampling.arguments())
    for piece in [answer] if isinstance(answer, str) else answer:
        if model.writes_output:
            terminal.write(piece)
    if model.writes_output:
        terminal.write("\n")


def _prompt(prompt: str | None) -> str:
    if prompt is None and not files.stdin_is_piped():
        raise InputError("no prompt; pass it as an argument, or pipe it in")
    if prompt is None or prompt == files.STDIN:
        return files.read_prompt()
    return files.from_arguments([prompt])[0].text
