"""Token ids -> the bytes that they add to a text, also where a token is a part of a character."""

from __future__ import annotations

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # as sentencepiece writes the bytes of rare characters


class TokenBytes:
    """The bytes and the name of each token of a tokenizer.

    Decoding a part of a character alone gives a replacement character, so its bytes are read from
    the vocabulary.

    Args:
        before: ids of some text; some tokenizers leave out a space in front of the first token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: list[int]) -> None:
        self._tokenizer = tokenizer
        self._before = before
        self._size = len(self._decoded(before))
        self.of = lru_cache(maxsize=16384)(self._of)

    def name(self, token: int, *, first: bool = False) -> str:
        r"""Return a token's text, ``bytes:\xf0\x9f`` for a part of a character, or its name in the
        vocabulary where it adds no text."""
        if found := self.of(token, first=first):
            try:
                return found.decode()
            except UnicodeDecodeError:
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)
        return self._piece(token) or f"token_id:{token}"

    def _of(self, token: int, *, first: bool = False) -> bytes:
        """Return the bytes of a token; none for special tokens, which answers leave out.

        Args:
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
    """Return the bytes of a piece as byte-level or sentencepiece vocabularies write them."""
    if found := _BYTE.fullmatch(piece):
        return bytes.fromhex(found[1])
    known = _bytes_by_character()
    if any(character not in known for character in piece):
        return None
    return bytes(known[character] for character in piece)


@lru_cache(maxsize=1)
def _bytes_by_character() -> dict[str, int]:
    """Return the alphabet of byte-level BPE: printable characters stand for themselves, all other
    bytes for the characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
