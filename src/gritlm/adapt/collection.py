"""Passages of a collection of documents, and their split into a training and a held-out part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

from gritlm.adapt.config import FEW_PASSAGES, FEWEST_PASSAGES, AdaptConfig
from gritlm.adapt.rows.sentences import statements
from gritlm.adapt.run_folder import MadeRows, Row
from gritlm.errors import InputError
from gritlm.evaluation import fingerprints
from gritlm.lm.gritlm import GritLM
from gritlm.rag.ingest.chunking import cut
from gritlm.rag.ingest.folders import files
from gritlm.rag.ingest.ingest import ChunkingOptions, check_cutting, count_tokens
from gritlm.rag.ingest.skips import Skips
from gritlm.rag.ingest.sources import documents
from gritlm.rag.plan import PromptAssembler
from gritlm.rag.types import Passage
from gritlm.train.data.collate import key

FILE = "passages.jsonl"
DUPLICATE = "duplicate"
NO_SENTENCES = "without sentences"
TOO_MANY = "above the limit"

Split = Literal["train", "held-out"]
TRAIN: Split = "train"
HELD_OUT: Split = "held-out"
_FEW_DOCUMENTS = 10  # with fewer, neighbouring passages are split, not documents
_STRETCH = 10  # passages that stay together then
_COUNTED = 50  # passages whose tokens show how well the tokenizer knows the language
_TOKENS_A_CHARACTER = 0.75  # English: 0.25; of an unknown script: 1 to 3


@dataclass(frozen=True)
class CollectedPassage:
    """A passage of the collection.

    Attributes:
        id: id of the passage, as in a store.
        document: id of its document.
        title: title of the document.
        text: text of the passage.
        number: index among the passages of the document, from 0.
        split: part of the collection: ``train`` or ``held-out``.
    """

    id: str
    document: str
    title: str
    text: str
    number: int
    split: Split = TRAIN

    @property
    def embedded(self) -> str:
        """The embedded text: title and text."""
        return f"{self.title} {self.text}".strip()

    @property
    def row(self) -> Row:
        """The passage as a row of ``passages.jsonl``."""
        return asdict(self)


def collect(
    config: AdaptConfig, model: GritLM, assembler: PromptAssembler, skips: Skips
) -> MadeRows:
    """Read the documents; return the rows of their usable passages, split, and counts.

    Args:
        config: settings of the run.
        model: the model that is adapted, whose context bounds a passage.
        assembler: counts the tokens of passages, as an index does.
        skips: receives files and rows that cannot be read.

    Raises:
        InputError: if a path does not exist, passages would be longer than the model takes, or the
            training part has too few passages.
    """
    check_cutting(ChunkingOptions(config.max_tokens), model, assembler)
    made = MadeRows()
    seen: set[int] = set()
    kept: list[CollectedPassage] = []
    for passage in _passages(config, assembler, skips):
        if not statements(passage.text):
            made.drop(NO_SENTENCES)
        elif (name := key(passage.text)) in seen:
            made.drop(DUPLICATE)
        else:
            seen.add(name)
            kept.append(
                CollectedPassage(
                    passage.id, passage.document_id, passage.title, passage.text, passage.number
                )
            )
    chosen = _within_limit(_units(kept), config)
    for each in _split(chosen, config):
        made.keep(each.row)
        made.counts[each.split] += 1
    if left := len(kept) - made.counts["kept"]:
        made.counts[TOO_MANY] = left
    require_enough(made.counts[TRAIN], len(kept), config)
    return made


def load(rows: Iterable[Row]) -> list[CollectedPassage]:
    """Return the passages of rows, the training part first."""
    every = [CollectedPassage(**row) for row in rows]
    return sorted(every, key=lambda passage: passage.split != TRAIN)


def of_split(passages: Iterable[CollectedPassage], split: Split) -> list[CollectedPassage]:
    """Return the passages of one part of the collection."""
    return [passage for passage in passages if passage.split == split]


def digest_sources(paths: Sequence[str]) -> str:
    """Return the digest of the names and contents of files and of all files in folders.

    Raises:
        InputError: if a path does not exist.
    """
    found: list[tuple[str, Path]] = []
    for each in paths:
        path = Path(each)
        if not path.exists():
            raise InputError(f"{each!r} is no file or folder; expected documents")
        for file in files(path, Skips()):
            name = file.name if path.is_file() else file.relative_to(path).as_posix()
            if file.is_file():
                found.append((name, file))
    return fingerprints.of_files(found)


def require_enough(train: int, usable: int, config: AdaptConfig) -> None:
    """Refuse a training part that is too small to adapt to.

    Raises:
        InputError: with the number of passages.
    """
    if train < FEWEST_PASSAGES:
        raise InputError(
            f"{', '.join(config.documents)}: {usable} usable passages, {train} of them to train "
            f"on; expected at least {FEWEST_PASSAGES}, and some {FEW_PASSAGES} or more for a "
            "difference that can be measured; add documents"
        )


def advice(train: int) -> str | None:
    """Return what to expect of a small training part; None for one that is large enough."""
    if train >= FEW_PASSAGES:
        return None
    return (
        f"{train} passages to train on are few: expect small differences and wide intervals, and "
        f"add documents up to {FEW_PASSAGES} passages or more if you can"
    )


def language_note(passages: Sequence[CollectedPassage], assembler: PromptAssembler) -> str | None:
    """Return a warning for a language that the tokenizer hardly knows; None for others.

    Args:
        passages: passages of the collection, of which the first are counted.
        assembler: prompts of the model.
    """
    texts = [passage.text for passage in passages[:_COUNTED]]
    share = sum(count_tokens(assembler, texts)) / sum(map(len, texts))
    if share <= _TOKENS_A_CHARACTER:
        return None
    return (
        f"the tokenizer of the model takes {share:.1f} tokens for a character of these documents: "
        "it hardly knows their language; use a model that was trained on it"
    )


def _passages(config: AdaptConfig, assembler: PromptAssembler, skips: Skips) -> Iterable[Passage]:
    counter = partial(count_tokens, assembler)
    for document in documents(config.documents, skipped=skips, text_field=config.text_field):
        yield from cut(document, tokens=counter, max_tokens=config.max_tokens)


def _units(passages: Sequence[CollectedPassage]) -> list[list[CollectedPassage]]:
    """Return the passages in groups that the split keeps together: documents.

    Of a few long documents, stretches of neighbouring passages are the groups.
    """
    few = len({passage.document for passage in passages}) < _FEW_DOCUMENTS
    groups: dict[tuple[str, int], list[CollectedPassage]] = {}
    for passage in passages:
        stretch = passage.number // _STRETCH if few else 0
        groups.setdefault((passage.document, stretch), []).append(passage)
    return list(groups.values())


def _within_limit(
    units: Sequence[list[CollectedPassage]], config: AdaptConfig
) -> list[list[CollectedPassage]]:
    """Return shuffled groups with at most ``max_passages`` passages, at least one group."""
    order = list(units)
    Random(config.seed).shuffle(order)
    found: list[list[CollectedPassage]] = []
    held = 0
    for unit in order:
        if not found or held + len(unit) <= config.max_passages:
            found.append(unit)
            held += len(unit)
    return found


def _split(units: Sequence[list[CollectedPassage]], config: AdaptConfig) -> list[CollectedPassage]:
    """Return the passages with their part: the first groups are held out, at least one."""
    most = config.held_out * sum(map(len, units))
    found: list[CollectedPassage] = []
    split = HELD_OUT
    for number, unit in enumerate(units):
        if number and len(found) + len(unit) > most:
            split = TRAIN
        found += [replace(passage, split=split) for passage in unit]
    return found
