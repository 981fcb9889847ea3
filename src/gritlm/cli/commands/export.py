"""``gritlm export``: a model as a folder or a file for other programs, or on a model hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import ModelOptions
from gritlm.errors import InputError, one_line

if TYPE_CHECKING:
    from gritlm.lm.hub.formats.hub_card import CardFacts, CardScore

CARD = "Model card"


class FormOption(StrEnum):
    """Forms of an exported model."""

    folder = "folder"
    chat = "chat"
    gguf = "gguf"


class GgufOption(StrEnum):
    """Types of the matrices in a GGUF file."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"


@dataclass(frozen=True)
class CardOptions:
    """Facts of the model card, ``README.md``."""

    base_model: Annotated[
        str, typer.Option(help="Hub id of the model it was trained from.", rich_help_panel=CARD)
    ] = ""
    license: Annotated[
        str, typer.Option(help="Licence, such as apache-2.0.", rich_help_panel=CARD)
    ] = ""
    language: Annotated[
        list[str], typer.Option(help="Language code, such as en; repeatable.", rich_help_panel=CARD)
    ] = field(default_factory=list)
    dataset: Annotated[
        list[str],
        typer.Option(help="Hub id of training data; repeatable.", rich_help_panel=CARD),
    ] = field(default_factory=list)
    results: Annotated[
        Path | None,
        typer.Option(
            help="report.json of gritlm eval, whose scores the card shows.", rich_help_panel=CARD
        ),
    ] = None

    def facts(self, model: str | None) -> CardFacts:
        """Return the facts of the card.

        Args:
            model: name of the model; the default model has facts of its own.
        """
        from gritlm.lm.hub import default_model
        from gritlm.lm.hub.formats.hub_card import DEFAULT_FACTS, CardFacts

        known = DEFAULT_FACTS if model in (None, default_model.DEFAULT) else CardFacts()
        return CardFacts(
            base_model=self.base_model or known.base_model,
            license=self.license or known.license,
            languages=tuple(self.language) or known.languages,
            datasets=tuple(self.dataset),
            scores=() if self.results is None else tuple(_scores(self.results)),
        )


def export(
    to: Annotated[
        Path | None, typer.Argument(help="Folder to write; a file for gguf.", show_default=False)
    ] = None,
    *,
    form: Annotated[
        FormOption,
        typer.Option(
            "--format",
            help="folder: for gritlm, sentence-transformers, mteb and transformers. chat: a folder "
            "for programs that generate, such as vLLM. gguf: a file for llama.cpp and Ollama.",
        ),
    ] = FormOption.folder,
    gguf_type: Annotated[
        GgufOption, typer.Option(help="Type of the matrices in a GGUF file.")
    ] = GgufOption.bf16,
    push_to: Annotated[
        str, typer.Option(help="OWNER/NAME on the model hub: upload the folder there.")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    card: CardOptions,
    model: ModelOptions,
) -> None:
    """Write a model for other programs, with its adapter merged, or upload it."""
    if to is None and not push_to:
        raise InputError("there is no target; pass a folder, or --push-to OWNER/NAME")
    facts = card.facts(model.model)
    lm = model.load()
    if to is not None:
        known: dict[str, Any] = {"facts": facts}
        if form is FormOption.gguf:
            known = {"dtype": gguf_type.value}
        lm.export(to, form=form.value, **known)
        logs.note(f"written: {to}")
    if push_to:
        terminal.write(f"{lm.push_to_hub(push_to, facts, private=not public)}\n")


def _scores(path: Path) -> Iterator[CardScore]:
    """Yield the scores of the first model in a report.

    Raises:
        InputError: for a file that is no report.
    """
    from gritlm.lm.hub.formats.hub_card import CardScore

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        for result in report["models"][0]["results"]:
            yield CardScore(
                str(result["task"]),
                str(result["kind"]),
                str(result["metric"]),
                float(result["score"]),
            )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{path} is no report.json of gritlm eval ({reason})") from None
