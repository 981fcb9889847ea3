"""Saved tokenizers that give ``header + text`` the token ids of two segments.

Other libraries tokenise the whole string. A byte-level tokenizer then merges the newline at the
end of the header with whitespace at the beginning of the text. The saved ``tokenizer.json`` gets a
pre-tokenizer that splits strings after the ``<|embed|>`` marker and changes no other string.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gritlm.lm.hub.model_config import read_object
from gritlm.lm.hub.quiet import quiet
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import EMBED

log = logging.getLogger(__name__)

_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_PROBES = ("a", "Ann has 2 balls.", "Zürich – 東京 😀", "1.5", "<|user|>\na", "([{", "a\n\n b  ")
_SPACED = (" a", "  a", "\na", "\n\na", "\t1", " \n a", "\n  1")
_CUT = {
    "type": "Split",
    "pattern": {"String": EMBED},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
_LONG = 4096

Ids = dict[tuple[str, str], list[int]]  # by header and text


def fit(folder: Path, headers: Sequence[str]) -> str | None:
    """Make the tokenizer of a folder give whole strings the token ids of segments.

    A warning is logged if only texts that begin with whitespace get other ids.

    Args:
        folder: the checkpoint folder.
        headers: headers of texts; texts without a header are compared too.

    Returns:
        The reason why ordinary texts get other ids; None if they do not.
    """
    tokenizer = _load(folder)
    wanted = _segments(tokenizer, headers)
    left = _differing(tokenizer, wanted)
    if left and _is_mended(folder, wanted):
        return None
    if ordinary := [text for text in left if text not in _SPACED]:
        return f"Its tokenizer reads a header and {ordinary[0]!r} in one string with other ids"
    if left:
        log.warning(
            "elsewhere than in gritlm, texts that begin with whitespace (such as %r) get other "
            "token ids; strip them there",
            left[0],
        )
    return None


def _is_mended(folder: Path, wanted: Ids) -> bool:
    """Add the pre-tokenizer if it makes all ids equal, else restore the files."""
    files = [path for path in (folder / _FILE, folder / _CONFIG_FILE) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    if len(before) < 2:
        return False
    content = read_object(folder / _FILE)
    steps = [step for step in (_CUT, content.get("pre_tokenizer")) if step is not None]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    config = read_object(folder / _CONFIG_FILE)
    # Tokenizer classes of some models create their pre-tokenizer themselves and ignore the file.
    for changes in ({}, {"tokenizer_class": "PreTrainedTokenizerFast"}):
        _save(folder / _FILE, content)
        _save(folder / _CONFIG_FILE, config | changes)
        tokenizer = _load(folder)
        alike = _segments(tokenizer, sorted({header for header, _ in wanted})) == wanted
        if alike and not _differing(tokenizer, wanted):
            return True
    for path, text in before.items():
        path.write_bytes(text)
    return False


def _segments(tokenizer: PreTrainedTokenizerBase, headers: Sequence[str]) -> Ids:
    """Return the token ids of GritLM for test texts, by header and text."""
    tokens = SegmentTokenizer(tokenizer)
    special = [f"a {token} b" for token in tokenizer.all_special_tokens]
    texts = [*_PROBES, *special, *_SPACED]
    return {
        (header, text): prompt.ids
        for header in {"", *headers}
        for text, prompt in zip(
            texts,
            tokens.for_embedding(texts, max_length=_LONG, instruction=header)[0],
            strict=True,
        )
    }


def _differing(tokenizer: PreTrainedTokenizerBase, wanted: Ids) -> list[str]:
    """Return the texts with other ids if header and text are tokenised as a single string."""
    return [
        text
        for (header, text), ids in wanted.items()
        if tokenizer(header + text, split_special_tokens=True)["input_ids"] != ids
    ]


def _load(folder: Path) -> PreTrainedTokenizerBase:
    with quiet():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _save(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
