"""Command-line options shared by several commands."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs
from gritlm.cli.environment import option
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm import GritLM
    from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks

MODEL = "Model"
SAMPLING = "Sampling"
MESSAGES = "Messages"
SHARED_BLOCKS = (
    "Folder, or address such as s3://bucket/blocks, of KV blocks that several stores and machines "
    "share: missing ones are fetched there where that is faster than computing them."
)
SharedBlocksUri = Annotated[str | None, typer.Option(metavar="URI", help=SHARED_BLOCKS)]


class Dtype(StrEnum):
    """Data types in which a model can be loaded; ``auto`` is the one of the checkpoint."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class BlockKindOption(StrEnum):
    """Attention with which the KV blocks of documents are computed."""

    bidirectional = "bidirectional"
    causal = "causal"


class Quantization(StrEnum):
    """Formats of quantised weights."""

    int8 = "int8"
    int4 = "int4"
    nf4 = "nf4"
    fp8 = "fp8"


class Reader(StrEnum):
    """Readers of files."""

    standard = "standard"
    docling = "docling"
    pages = "pages"
    pages_and_text = "pages-and-text"


@dataclass(frozen=True)
class PlacementOptions:
    """Format and placement of the weights; ``gritlm serve`` has the same options."""

    quantization: Annotated[
        Quantization | None,
        option(
            env="QUANTIZATION",
            panel=MODEL,
            help="Quantise the weights: int8 and int4 on a CPU; int8, nf4 and fp8 on a GPU.",
        ),
    ] = None
    device_map: Annotated[
        str | None,
        option(
            env="DEVICE_MAP",
            panel=MODEL,
            help="Spread the layers over several GPUs and the CPU: auto, balanced, "
            "balanced_low_0 or sequential.",
        ),
    ] = None
    tensor_parallel_size: Annotated[
        int,
        option(
            env="TENSOR_PARALLEL_SIZE",
            panel=MODEL,
            min=1,
            help="Number of processes that share each layer, started by torchrun.",
        ),
    ] = 1
    compile: Annotated[
        bool,
        option(
            env="COMPILE",
            panel=MODEL,
            help="Compile decoding steps, once for a machine: by numba on a CPU (the extra "
            "compiled), by torch on a GPU.",
        ),
    ] = False

    def require_one_process(self) -> None:
        """Refuse tensor parallelism.

        Raises:
            InputError: for more than one process.
        """
        if self.tensor_parallel_size > 1:
            raise InputError(
                f"--tensor-parallel-size {self.tensor_parallel_size}: this command runs in one "
                "process; embed and generate run in several, this one takes --device-map auto"
            )

    @property
    def writes_output(self) -> bool:
        """Whether this process writes the output: the first of those that share a model."""
        return self.tensor_parallel_size == 1 or os.environ.get("RANK", "0") == "0"

    def placement(self) -> dict[str, Any]:
        """Return the options that are set, as keyword arguments of :class:`gritlm.GritLM`."""
        found: dict[str, Any] = {}
        if self.quantization is not None:
            found["quantization"] = self.quantization.value
        if self.device_map is not None:
            found["device_map"] = self.device_map
        if self.tensor_parallel_size > 1:
            found["tensor_parallel_size"] = self.tensor_parallel_size
        if self.compile:
            found["compile"] = True
        return found


@dataclass(frozen=True)
class ModelOptions(PlacementOptions):
    """Which model, and how to run it."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder or hub id of the model. Two names: default (used if omitted), and base, "
            "the default model without its adapter.",
            rich_help_panel=MODEL,
        ),
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a LoRA adapter of the model, or a run of gritlm train. "
            "default: that of the default model.",
            rich_help_panel=MODEL,
        ),
    ] = None
    embed_adapter: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a LoRA adapter that embeds only: answers are those without "
            "it.",
            rich_help_panel=MODEL,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1 or mps. Default: the best one available.",
            rich_help_panel=MODEL,
        ),
    ] = None
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            help="Data type of the weights; auto: as stored. Default: the fastest on this machine.",
            rich_help_panel=MODEL,
        ),
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of CPU threads.", rich_help_panel=MODEL)
    ] = None
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Maximum tokens of a text, or of a prompt and its answer. Default: those of the "
            "model.",
            rich_help_panel=MODEL,
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the options as keyword arguments of :class:`gritlm.GritLM`."""
        return {
            "model_name_or_path": self.model,
            "device": self.device,
            "adapter": self.adapter,
            "embed_adapter": self.embed_adapter,
            "dtype": None if self.dtype is None else self.dtype.value,
            "max_model_len": self.max_model_len,
            **self.placement(),
        }

    def load(
        self,
        *,
        mode: str = "unified",
        adapters: Mapping[str, str] | None = None,
        parallel: bool = False,
    ) -> GritLM:
        """Load the model and print a note when the default model is fetched first.

        Args:
            mode: ``unified``, ``embedding`` or ``generative``; see :class:`gritlm.GritLM`.
            adapters: folder or hub id of further adapters by name.
            parallel: whether the command can run in several processes.

        Raises:
            InputError: for tensor parallelism, if the command cannot.
        """
        if not parallel:
            self.require_one_process()
        from gritlm import GritLM
        from gritlm.lm import threads
        from gritlm.lm.hub import default_model

        logs.hush_libraries()
        if self.model in default_model.OURS:
            default_model.ensure(report=logs.note)  # the first use downloads it
        if self.threads is not None:
            threads.keep(self.threads)
        model = GritLM(mode=mode, adapters=adapters, **self.arguments())
        # Libraries and model stay until the end: a collection that visits them takes 0.3 s.
        gc.freeze()
        return model


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling parameters of a generated text."""

    max_new_tokens: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of tokens to generate.", rich_help_panel=SAMPLING),
    ] = 256
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Sampling temperature; 0: always the most likely token.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Sample from the most likely tokens with this cumulative probability.",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0
    top_k: Annotated[
        int,
        typer.Option(
            min=0,
            help="Sample from this number of most likely tokens; 0: all.",
            rich_help_panel=SAMPLING,
        ),
    ] = 0
    seed: Annotated[
        int | None,
        typer.Option(
            help="Random seed; the same seed gives the same text.", rich_help_panel=SAMPLING
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Stop before this string; may be repeated.", rich_help_panel=SAMPLING),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the options as keyword arguments of ``GritLM.chat``."""
        return {**asdict(self), "stop": self.stop or None}


@dataclass(frozen=True)
class LogOptions:
    """Verbosity of the messages on stderr."""

    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Log everything, with the tracebacks of errors.",
            rich_help_panel=MESSAGES,
        ),
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log each step.", rich_help_panel=MESSAGES)
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print errors only.", rich_help_panel=MESSAGES)
    ] = False

    def level(self) -> int | None:
        """Return the log level that the flags set; None without a flag."""
        if self.debug:
            return logging.DEBUG
        if self.verbose:
            return logging.INFO
        return logging.ERROR if self.quiet else None

    def apply(self, *, default: int | None = None) -> None:
        """Set the log level of the flags, else ``default``; None leaves it unchanged.

        Args:
            default: the log level without a flag.
        """
        level = self.level() or default
        if level is not None:
            logs.configure(level)


class InputFormat(StrEnum):
    """Format of an input file; ``auto`` detects it from the name or the first characters."""

    auto = "auto"
    text = "text"
    jsonl = "jsonl"
    json = "json"
    csv = "csv"
    tsv = "tsv"


@dataclass(frozen=True)
class ReadOptions:
    """Format of the texts in a file or in stdin."""

    input_format: Annotated[
        InputFormat,
        typer.Option(
            help="text: one text per line; jsonl: one JSON object per line; json: an array of "
            "objects; csv, tsv: a table with a header; auto: detect from the file extension, else "
            "from the first characters."
        ),
    ] = InputFormat.auto
    field: Annotated[
        str,
        typer.Option(
            help="Field of the JSON objects, or column of the table, with the text. For 'text', "
            "the 'title' of the record is prepended."
        ),
    ] = "text"


@dataclass(frozen=True)
class EncodeFlags:
    """Instruction and limits of ``GritLM.encode``."""

    instruction: Annotated[
        str | None,
        typer.Option(help="Task of the query in plain words, e.g. 'Retrieve the abstract'."),
    ] = None
    raw_instruction: Annotated[
        bool,
        typer.Option(
            "--raw-instruction", help="Use the instruction verbatim, without formatting it."
        ),
    ] = False
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of texts in a batch.")
    ] = None
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Truncate texts to this number of tokens.")
    ] = None

    def header(self) -> str:
        """Return the header of a query: the formatted instruction, or the raw one as it is."""
        return _header(self.instruction or "", raw=self.raw_instruction)

    def limits(self) -> dict[str, Any]:
        """Return the limits that were set, as keyword arguments of ``GritLM.encode``."""
        limits = {"batch_size": self.batch_size, "max_length": self.max_length}
        return {name: value for name, value in limits.items() if value is not None}


SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip rows that cannot be used, and list them.")
]


@dataclass(frozen=True)
class DefaultInstructions:
    """Instructions for training data without its own."""

    instruction: Annotated[
        str, typer.Option(help="Instruction, in plain words, for queries that have none.")
    ] = ""
    passage_instruction: Annotated[
        str, typer.Option(help="Instruction for passages that have none.")
    ] = ""


def _header(instruction: str, *, raw: bool) -> str:
    from gritlm.prompts import EMBED, gritlm_instruction

    if raw:
        return instruction
    if EMBED.strip() in instruction:
        logging.getLogger(f"{logs.NAME}.cli").warning(
            "the instruction contains %s, which is added again; use plain words, or add "
            "--raw-instruction",
            EMBED.strip(),
        )
    return gritlm_instruction(instruction)


def connect_blocks(url: str | None, *, to_write: bool = False) -> SharedBlocks | None:
    """Return the storage of an address; None without one.

    Args:
        url: folder or address.
        to_write: write and delete a small object there first.

    Raises:
        InputError: for an address that is not read.
        MissingExtraError: without the libraries of the extra ``scale``.
        StorageError: for storage that cannot be written.
    """
    if url is None:
        return None
    from gritlm.scale import shared_blocks

    return shared_blocks(url, writable=to_write)
