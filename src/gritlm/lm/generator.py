"""Text generation: prefill after cached KV blocks, decoding, and streaming of text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from gritlm.errors import InputError, at_least_one
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import is_preallocated, shorten
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.prompt_lookup import PromptLookup
from gritlm.lm.sampling import Sampler, SamplingParams, is_complete
from gritlm.lm.tokens import Prompt, special_tokens
from gritlm.lm.unified import UnifiedLM

PIECE = 512  # tokens of a pass while other work waits for the model


# A pass of the model: from the tokens drawn since the last pass, and the most tokens of a draft, to
# the draft and the logits (S, V) after the last drawn token and after each drafted one.
DecodePass = Callable[[Sequence[int], int], tuple[list[int], Tensor]]


def complete(
    lm: UnifiedLM,
    prompt: Sequence[int] | Prompt,
    *,
    kv: KVBlock | Sequence[KVBlock] | None = None,
    sampler: Sampler,
    max_new_tokens: int,
    end_ids: Collection[int] = (),
    lookup: PromptLookup | None = None,
) -> Iterator[int]:
    """Generate token ids after ``kv`` and a prompt, one by one, without the end token.

    Logits are computed for the last position of the prompt only, and each step writes one token
    into a preallocated cache, or several where a draft is verified.

    Args:
        lm: the model.
        prompt: token ids, or a prompt with its images and sounds.
        kv: KV blocks before the prompt, concatenated as in :meth:`KVBlock.join`.
        sampler: function from logits (V,) to a token id.
        max_new_tokens: maximum number of new tokens.
        end_ids: token ids that end the text.
        lookup: drafts of the next tokens; None for one token a pass.

    Raises:
        InputError: for an empty prompt, or one that is too long for the model.
        CacheMismatchError: for a KV block of another model.
    """
    ids, media = (prompt.ids, prompt.media) if isinstance(prompt, Prompt) else (prompt, ())
    if not ids:
        raise InputError("the prompt has no tokens; expected at least one")
    blocks = own_blocks(lm, kv)
    held = sum(block.tokens for block in blocks)
    room = answer_room(lm, held + len(ids), max_new_tokens)

    def tokens() -> Iterator[int]:
        cache = prefix_cache(lm, blocks, room=len(ids) + room)
        logits_V = prefill(lm, cache, ids, media=media)
        step = decode_pass(lm, cache, lookup)
        yield from decode(step, logits_V, sampler=sampler, room=room, end_ids=end_ids)

    return tokens()


def answer_room(lm: UnifiedLM, prompt: int, wanted: int) -> int:
    """Return the maximum number of new tokens after a prompt.

    Args:
        lm: the model.
        prompt: number of tokens of the prompt, with its KV blocks.
        wanted: requested number of new tokens.

    Raises:
        InputError: for a prompt that leaves no room for new tokens.
    """
    at_least_one(wanted, name="max_new_tokens")
    limit = lm.max_positions
    if limit is not None and prompt >= limit:
        raise InputError(f"the prompt has {prompt} tokens, the model takes {limit} with the answer")
    return wanted if limit is None else min(wanted, limit - prompt)


@torch.inference_mode()
def prefill(
    lm: UnifiedLM, cache: Cache, ids: Sequence[int], *, media: Sequence[MediaTokens] = ()
) -> Tensor:
    """Compute ``ids`` after the cached tokens; return the logits (V,) of the next token."""
    ids_1L = torch.tensor([ids], device=lm.device)
    return lm.logits(ids_1L, cache=cache, keep=1, media=media)[0, -1]


@torch.inference_mode()
def prefill_with_logits(lm: UnifiedLM, cache: Cache, ids: Sequence[int]) -> Tensor:
    """Compute ``ids`` after the cached tokens; return the logits (S, V) after each of them."""
    return lm.logits(torch.tensor([ids], device=lm.device), cache=cache)[0]


@torch.inference_mode()
def prefill_in_pieces(
    lm: UnifiedLM,
    cache: Cache,
    ids: Sequence[int],
    checkpoint: Callable[[], None] | None,
    *,
    media: Sequence[MediaTokens] = (),
) -> Tensor:
    """Prefill a cache, in pieces of :data:`PIECE` tokens if there is a checkpoint callback.

    Args:
        lm: the model.
        cache: cache of the tokens before; extended in place.
        ids: token ids.
        checkpoint: callback between the pieces; None where no other work waits for the model.
        media: images and sounds of the prompt, none of which is cut.

    Returns:
        The logits of the next token (V,).
    """
    if checkpoint is None or not is_preallocated(cache):
        return prefill(lm, cache, ids, media=media)  # other caches may need a single pass
    start = 0
    while True:
        end = _end_of_piece(ids, start + PIECE)
        piece = ids[start:end]
        needed = media if any(token < 0 for token in piece) else ()
        logits_V = prefill(lm, cache, piece, media=needed)
        if end >= len(ids):
            return logits_V
        start = end
        checkpoint()


def _end_of_piece(ids: Sequence[int], end: int) -> int:
    """Return the end of a piece, behind the placeholders of an image that would be cut."""
    while end < len(ids) and ids[end] < 0 and ids[end - 1] < 0:
        end += 1
    return end


def decode_pass(lm: UnifiedLM, cache: Cache, lookup: PromptLookup | None = None) -> DecodePass:
    """Return the function that adds drawn tokens to a cache, with a draft of those that follow.

    Args:
        lm: the model.
        cache: cache of the prompt.
        lookup: drafts; None for none. A cache that cannot be shortened takes none either.
    """
    if lookup is None or not is_preallocated(cache):
        return lambda drawn, _: ([], prefill(lm, cache, drawn)[None])
    pending = 0  # tokens of the last draft, which are in the cache

    def verify(drawn: Sequence[int], room: int) -> tuple[list[int], Tensor]:
        nonlocal pending
        *accepted, token = drawn
        shorten(cache, pending - len(accepted))
        lookup.judge(pending, len(accepted))
        for each in drawn:
            lookup.add(each)
        draft = lookup.draft(room)
        pending = len(draft)
        return draft, prefill_with_logits(lm, cache, [token, *draft])

    return verify


def decode(
    step: DecodePass,
    logits_V: Tensor,
    *,
    sampler: Sampler,
    room: int,
    end_ids: Collection[int],
) -> Iterator[int]:
    """Generate token ids after the cached tokens, without the end token.

    Every token is drawn from the model's logits. Those behind a draft are valid as long as the
    drawn tokens are the drafted ones, so the distribution is that without drafts, and with the same
    seed the text too.

    Args:
        step: pass of the model.
        logits_V: logits of the first new token.
        sampler: function from logits (V,) to a token id.
        room: maximum number of new tokens.
        end_ids: token ids that end the text.
    """
    draft: list[int] = []
    logits_SV = logits_V[None]
    while room:
        drawn: list[int] = []
        for position_V in logits_SV:
            token = sampler(position_V)
            if token in end_ids:
                return
            yield token
            room -= 1
            if not room or is_complete(sampler):
                return
            drawn.append(token)
            if draft[len(drawn) - 1 : len(drawn)] != [token]:
                break
        # Inference mode must not be active at a yield: it belongs to the thread of the caller.
        draft, logits_SV = step(drawn, room - 1)


def own_blocks(lm: UnifiedLM, kv: KVBlock | Sequence[KVBlock] | None) -> list[KVBlock]:
    """Return KV blocks as a list, after a check that this model computed them.

    Args:
        lm: the model.
        kv: KV block, a sequence of them, or None for an empty list.

    Raises:
        InputError: for an object of another type.
        CacheMismatchError: for a KV block of another model.
    """
    if kv is None:
        return []
    blocks = [kv] if isinstance(kv, KVBlock) else list(kv)
    for block in blocks:
        require_block(lm, block)
    return blocks


def require_block(lm: UnifiedLM, kv: object) -> None:
    """Raise an error unless ``kv`` is a KV block of this model.

    Args:
        lm: the model.
        kv: the object to check.

    Raises:
        InputError: for an object of another type, such as the list that ``encode`` returns.
        CacheMismatchError: for a KV block of another model.
    """
    if not isinstance(kv, KVBlock):
        raise InputError(f"kv is {type(kv).__name__}; expected one KVBlock, e.g. blocks[0]")
    lm.require_own(kv)


@torch.no_grad()
def prefix_cache(
    lm: UnifiedLM, kv: KVBlock | Sequence[KVBlock] | None, *, room: int, rows: int = 1
) -> Cache:
    """Return a cache that begins with KV blocks at position 0.

    Keys and values are converted to the model's dtype and copied once, to the layers' devices.

    Args:
        lm: the model.
        kv: KV blocks, concatenated in this order; None for an empty cache.
        room: number of tokens that can be added without a reallocation.
        rows: batch size; every row begins with the same blocks.
    """
    blocks = [block for block in own_blocks(lm, kv) if block.tokens]
    cache = lm.new_cache(sum(block.tokens for block in blocks) + room)
    held = 0
    devices = lm.layer_devices() if blocks else None
    for block in blocks:
        moved = block.move(held).to(dtype=lm.dtype, device=lm.device)
        moved.fill(cache, rows=rows, devices=devices)
        held += block.tokens
    return cache


class TextStream:
    """Incremental detokeniser that never splits a character and hides stop strings.

    Args:
        tokenizer: the tokenizer.
        stop: strings that end the text.
        ignore: number of first tokens in which no stop string ends the text.
        shown_special_ids: ids of special tokens that the text shows; it has no others.

    Attributes:
        stopped: whether a stop string has been found.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: Sequence[str] = (),
        *,
        ignore: int = 0,
        shown_special_ids: Collection[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self._hidden_ids = (
            set(special_tokens(tokenizer).values()).difference(shown_special_ids)
            if shown_special_ids
            else None
        )
        self.stop = [s for s in stop if s]
        self._ignore = ignore
        self._ids: list[int] = []
        # Tokens before `_context` are never decoded again; tokens up to `_done` are already text.
        self._context = self._done = 0
        self._held = ""
        self.stopped = False

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, params: SamplingParams) -> TextStream:
        """Return the stream of a text with these sampling parameters."""
        return cls(
            tokenizer,
            params.stop,
            ignore=params.min_new_tokens,
            shown_special_ids=params.shown_special_ids,
        )

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield pieces of text for a stream of token ids, up to the first stop string."""
        for token in tokens:
            if piece := self.push(token):
                yield piece
            if self.stopped:
                return
        if piece := self.close():
            yield piece

    @property
    def held(self) -> int:
        """Number of characters that are held back because they may begin a stop string."""
        return len(self._held)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text; None if none did."""
        found = [stop for stop in self.stop if self.stopped and self._held.startswith(stop)]
        return found[0] if found else None

    def push(self, token: int) -> str:
        """Add a token and return the new text, which may be empty.

        After ``stopped`` there is no more text.
        """
        self._ids.append(token)
        self._held += self._new_text()
        return self._released(len(self._held) - self._maybe_stop())

    def close(self) -> str:
        """Return the rest of the text after the last token."""
        self._held += self._new_text(last=True)
        return self._released(len(self._held))

    def _released(self, size: int) -> str:
        """Remove and return up to ``size`` characters of the held text, up to a stop string."""
        cut = self._stops_at()
        self.stopped = cut is not None
        size = size if cut is None else cut
        piece = self._held[:size]
        self._held = self._held[size:]
        return piece

    def _new_text(self, *, last: bool = False) -> str:
        """Return the text since the last call; empty while a character is incomplete."""
        known = self._decode(self._ids[self._context : self._done])
        text = self._decode(self._ids[self._context :])
        if text.endswith("\ufffd") and not last:
            return ""
        self._context, self._done = self._done, len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        if self._hidden_ids is None:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True))
        shown = [token for token in ids if token not in self._hidden_ids]
        return str(self.tokenizer.decode(shown, skip_special_tokens=False))

    def _stops_at(self) -> int | None:
        if len(self._ids) <= self._ignore:
            return None
        found = [at for s in self.stop if (at := self._held.find(s)) >= 0]
        return min(found, default=None)

    def _maybe_stop(self) -> int:
        """Return the number of final characters that may begin a stop string."""
        longest = max((len(s) for s in self.stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-size:]) for s in self.stop):
                return size
        return 0
