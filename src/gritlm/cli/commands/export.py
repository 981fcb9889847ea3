"""``gritlm export``: a model as a folder or a file for other programs, or on a model hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import ModelOptions
from gritlm.errors import InputError, one_line

if TYPE_CHECKING:
    from gritlm import CardFacts, CardScore

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
    q4_0 = "q4_0"


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

    def facts(self, known: CardFacts, scores: Sequence[CardScore]) -> CardFacts:
        """Return the facts of the card.

        Args:
            known: facts in the card of the model, for options that are not set.
            scores: scores of the model.
        """
        from gritlm import CardFacts

        return CardFacts(
            base_model=self.base_model or known.base_model,
            license=self.license or known.license,
            languages=tuple(self.language) or known.languages,
            datasets=tuple(self.dataset) or known.datasets,
            scores=tuple(scores),
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
            "for programs that generate, such as vLLM. gguf: a file for llama.cpp.",
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
    scores = [] if card.results is None else list(_scores(card.results))
    lm = model.load()
    facts = card.facts(lm.card_facts, scores)
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
    from gritlm import CardScore

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
