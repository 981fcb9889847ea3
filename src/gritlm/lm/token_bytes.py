"""Bytes of single tokens, including tokens that are parts of a character."""

from __future__ import annotations

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # as sentencepiece writes the bytes of rare characters


class TokenBytes:
    """Bytes and name of each token of a tokenizer.

    A part of a character decodes to a replacement character, so its bytes are read from the
    vocabulary.

    Args:
        tokenizer: the tokenizer.
        before: ids of any text, before which tokens are decoded: some tokenizers drop the space in
            front of the first token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: list[int]) -> None:
        self._tokenizer = tokenizer
        self._before = before
        self._size = len(self._decoded(before))
        self.of = lru_cache(maxsize=16384)(self._of)

    def name(self, token: int, *, first: bool = False) -> str:
        r"""Return the name of a token.

        It is the text of the token, ``bytes:\xf0\x9f`` for a part of a character, or the entry of
        the vocabulary for a token without text.

        Args:
            token: the token id.
            first: whether it is the first token of a text.
        """
        if found := self.of(token, first=first):
            try:
                return found.decode()
            except UnicodeDecodeError:
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)
        return self._piece(token) or f"token_id:{token}"

    def _of(self, token: int, *, first: bool = False) -> bytes:
        """Return the bytes of a token; empty for special tokens, which answers omit.

        Args:
            token: the token id.
            first: whether it is the first token of a text.
        """
        text = self._decoded([token] if first else [*self._before, token])
        text = text if first else text[self._size :]
        if _UNFINISHED in text:
            return _from_vocabulary(self._piece(token) or "") or text.encode()
        return text.encode()

    def _piece(self, token: int) -> str | None:
        found = self._tokenizer.convert_ids_to_tokens(token)
        return found if isinstance(found, str) else None

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _from_vocabulary(piece: str) -> bytes | None:
    """Return the bytes of an entry of a byte-level or sentencepiece vocabulary."""
    if found := _BYTE.fullmatch(piece):
        return bytes.fromhex(found[1])
    known = _bytes_by_character()
    if any(character not in known for character in piece):
        return None
    return bytes(known[character] for character in piece)


@lru_cache(maxsize=1)
def _bytes_by_character() -> dict[str, int]:
    """Return the alphabet of byte-level BPE, from character to byte.

    Printable characters represent themselves; the characters from 256 on represent all other bytes.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
