"""Options that several commands share, each defined once."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs

if TYPE_CHECKING:
    from gritlm import GritLM

MODEL = "Model"
SAMPLING = "Sampling"
MESSAGES = "Messages"


class Dtype(StrEnum):
    """Number formats a model can be loaded in; ``auto`` is the one it was stored in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how to run it."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder or hub id; default (when left out), or base: that without its adapter.",
            rich_help_panel=MODEL,
        ),
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a LoRA adapter.", rich_help_panel=MODEL),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps; the best one found when left out.", rich_help_panel=MODEL
        ),
    ] = None
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            help="auto: as stored; left out: the fastest on this machine.",
            rich_help_panel=MODEL,
        ),
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads to use.", rich_help_panel=MODEL)
    ] = None

    def load(self, *, mode: str = "unified") -> GritLM:
        """The model, ready for the job named by ``mode``."""
        from gritlm import GritLM
        from gritlm.lm.hub import default_model

        logs.hush_libraries()
        if self.model in (None, default_model.DEFAULT, default_model.BASE):
            default_model.ensure(report=logs.note)  # the first use takes a while: say what is done
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        dtype = None if self.dtype is None else self.dtype.value
        return GritLM(self.model, mode=mode, device=self.device, adapter=self.adapter, dtype=dtype)


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen, and when to stop."""

    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=SAMPLING)
    ] = 256
    temperature: Annotated[
        float,
        typer.Option(min=0.0, help="0: always the likeliest token.", rich_help_panel=SAMPLING),
    ] = 0.0
    top_p: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Draw among the likeliest tokens that hold this probability.",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0
    top_k: Annotated[
        int,
        typer.Option(
            min=0, help="Draw among this many likeliest tokens; 0: all.", rich_help_panel=SAMPLING
        ),
    ] = 0
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same answer.", rich_help_panel=SAMPLING)
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Text to stop before; may be repeated.", rich_help_panel=SAMPLING),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``GritLM.chat``."""
        return {**asdict(self), "stop": self.stop or None}


@dataclass(frozen=True)
class LogOptions:
    """How much is said on stderr."""

    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Everything, with tracebacks of errors.", rich_help_panel=MESSAGES
        ),
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say what is done.", rich_help_panel=MESSAGES)
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Errors only.", rich_help_panel=MESSAGES)
    ] = False

    def level(self) -> int | None:
        """The log level asked for; None when none was."""
        if self.debug:
            return logging.DEBUG
        if self.verbose:
            return logging.INFO
        return logging.ERROR if self.quiet else None

    def apply(self, *, default: int | None = None) -> None:
        """Set the log level; without one asked for, ``default``, or leave it as it is."""
        level = self.level() or default
        if level is not None:
            logs.configure(level)


class InputFormat(StrEnum):
    """Format of a file of texts; ``auto`` looks at its name and its beginning."""

    auto = "auto"
    text = "text"
    jsonl = "jsonl"
    json = "json"
    csv = "csv"
    tsv = "tsv"


@dataclass(frozen=True)
class ReadOptions:
    """How texts are read from a file or from stdin."""

    input_format: Annotated[
        InputFormat,
        typer.Option(
            help="text: one text a line; jsonl: one JSON object a line; json: an array of them; "
            "csv, tsv: a table with a header; auto: by the file's ending, else by its beginning."
        ),
    ] = InputFormat.auto
    field: Annotated[
        str,
        typer.Option(
            help="Field of an object, or column of a table, that holds the text; before 'text' "
            "its 'title' is put."
        ),
    ] = "text"


@dataclass(frozen=True)
class EncodeFlags:
    """How texts become vectors."""

    instruction: Annotated[
        str | None,
        typer.Option(help="What a query looks for, in plain words: 'Retrieve the abstract'."),
    ] = None
    raw_instruction: Annotated[
        bool,
        typer.Option("--raw-instruction", help="Use the instruction as is, without formatting."),
    ] = False
    batch_size: Annotated[int | None, typer.Option(min=1, help="Most texts at once.")] = None
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Cut texts that are longer, in tokens.")
    ] = None

    def header(self) -> str:
        """What is put before a query: the plain words formatted, unless they are raw."""
        return _header(self.instruction or "", raw=self.raw_instruction)

    def limits(self) -> dict[str, Any]:
        """The keyword arguments of ``GritLM.encode`` that were given."""
        given = {"batch_size": self.batch_size, "max_length": self.max_length}
        return {name: value for name, value in given.items() if value is not None}


def _header(instruction: str, *, raw: bool) -> str:
    from gritlm.prompts import EMBED, gritlm_instruction

    if raw:
        return instruction
    if EMBED.strip() in instruction:
        logging.getLogger(f"{logs.NAME}.cli").warning(
            "the instruction holds %s and gets it once more; give plain words, or add "
            "--raw-instruction",
            EMBED.strip(),
        )
    return gritlm_instruction(instruction)
