"""Embedding of texts in length-sorted batches under a token budget.

Shapes: B texts of a batch, T their tokens without padding, L positions, D hidden size, P projected.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gritlm.errors import ModelError
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.media.files import LOCAL, MediaRules
from gritlm.lm.media.inputs import Parts
from gritlm.lm.media.media_prompts import embedding_prompt
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.lm.unified import UnifiedLM, unpack
from gritlm.lm.vectors import POOLING, normalise

log = logging.getLogger(__name__)

WINDOW = 16  # inputs with images or sound that are decoded and in memory together

# Maximum tokens of a batch. On a CPU, a batch that exceeds the cache is slower.
TOKEN_BUDGET = {"cpu": 512, "mps": 4096, "cuda": 16384}


@dataclass(frozen=True)
class EncodeOptions:
    """Options of a call of ``encode``; see :meth:`gritlm.GritLM.encode`.

    ``max_media_length`` is the maximum length of an input with images or sound, which is not cut,
    and ``rules`` are the limits on these.
    """

    batch_size: int
    max_length: int
    instruction: str
    embed_instruction: bool
    add_special_tokens: bool
    get_cache: bool
    progress: bool | None
    max_media_length: int = 1 << 20
    rules: MediaRules = LOCAL


class Encoder:
    """Computes embeddings with the bidirectional view, or the causal one if ``attn`` says so.

    Args:
        lm: the model.
        tokens: its tokenizer.
        settings: pooling, attention and normalisation.
        projection: layer applied to the states before pooling; None for no projection.
        generating: model that reads the KV blocks, if it is another one than ``lm``; they are then
            computed by its causal pass.

    Attributes:
        causal: whether texts are read with the causal view.
    """

    def __init__(
        self,
        lm: UnifiedLM,
        tokens: SegmentTokenizer,
        settings: ModelSettings,
        projection: nn.Linear | None = None,
        *,
        generating: UnifiedLM | None = None,
    ) -> None:
        self.lm = lm
        self._generating = generating
        self.tokens = tokens
        self.settings = settings
        self.projection = projection
        self.causal = settings.embeds_causally
        self.pool = POOLING[settings.pooling_method]

    @property
    def shares_pass(self) -> bool:
        """Whether the model that embeds is the one that generates."""
        return self._generating is None

    @property
    def makes_causal_blocks(self) -> bool:
        """Whether KV blocks are causal: those of a causal embedding, or of another model."""
        return self.causal or not self.shares_pass

    @property
    def dimension(self) -> int:
        if self.projection is not None:
            return self.projection.out_features
        return int(self.lm.config.hidden_size)

    def encode(
        self, inputs: Sequence[str | Parts], options: EncodeOptions
    ) -> tuple[Tensor, list[KVBlock]]:
        """Return the vectors (N, D) of the inputs in float32, and their KV blocks if requested.

        Texts are computed as if they were alone in the call, whatever the other inputs are.

        Args:
            inputs: N texts, or inputs with images and sound.
            options: instruction, lengths and batch size.

        Returns:
            The vectors and the KV blocks in the order of the inputs; no blocks without
            ``get_cache``.

        Raises:
            InputError: for an empty text, or an instruction that leaves no tokens for the text.
            ModelError: for a vector with NaN or infinite values.
        """
        vectors_ND = torch.empty(len(inputs), self.dimension)
        blocks: list[KVBlock | None] = [None] * len(inputs)
        with _progress(len(inputs), options.progress) as bar:
            for where, prompts in self._prompts_in_windows(inputs, options):
                for batch in batches(prompts, options.batch_size, self.token_budget):
                    rows = [where[index] for index in batch]
                    vector_BD, read = self._read(
                        [prompts[index] for index in batch], options.get_cache
                    )
                    vectors_ND[rows] = self._finite(vector_BD.cpu(), rows)
                    for row, block in zip(rows, read, strict=False):
                        blocks[row] = block
                    bar.update(len(rows))
        return vectors_ND, [block for block in blocks if block is not None]

    def _prompts_in_windows(
        self, inputs: Sequence[str | Parts], options: EncodeOptions
    ) -> Iterator[tuple[list[int], list[Prompt]]]:
        """Yield rows and their prompts: all texts, then a few inputs with media at a time."""
        texts = {row: each for row, each in enumerate(inputs) if isinstance(each, str)}
        yield list(texts), self._prompts(list(texts.values()), options)
        others = [(row, each) for row, each in enumerate(inputs) if not isinstance(each, str)]
        for start in range(0, len(others), WINDOW):
            window = others[start : start + WINDOW]
            prompts = [
                self._media_prompt(each, f"input {row} of {len(inputs)}", options)
                for row, each in window
            ]
            yield [row for row, _ in window], prompts

    def _media_prompt(self, parts: Parts, name: str, options: EncodeOptions) -> Prompt:
        frame = self.tokens.embedding_frame(
            instruction=options.instruction,
            end=self.settings.embed_eos,
            embed_instruction=options.embed_instruction,
            specials=options.add_special_tokens,
        )
        return embedding_prompt(
            parts,
            name=name,
            tokens=self.tokens,
            senses=self.lm.senses,
            frame=frame,
            max_length=options.max_media_length,
            rules=options.rules,
        )

    def _finite(self, vector_BD: Tensor, rows: list[int]) -> Tensor:
        good_B = torch.isfinite(vector_BD).all(dim=1)
        if not good_B.all():
            raise ModelError(
                f"the vector of text {rows[int((~good_B).nonzero()[0])]} is not finite in "
                f"{self.lm.dtype}; load the model with dtype='float32' or 'bfloat16'"
            )
        return vector_BD

    @property
    def token_budget(self) -> int:
        return TOKEN_BUDGET.get(self.lm.device.type, TOKEN_BUDGET["cpu"])

    def _prompts(self, texts: Sequence[str], options: EncodeOptions) -> list[Prompt]:
        prompts, cut = self.tokens.for_embedding(
            texts,
            max_length=options.max_length,
            instruction=options.instruction,
            end=self.settings.embed_eos,
            embed_instruction=options.embed_instruction,
            specials=options.add_special_tokens,
        )
        if cut:
            log.warning(
                "%d of %d texts are longer than max_length=%d tokens and were cut",
                cut,
                len(texts),
                options.max_length,
            )
        return prompts

    def vectors(
        self, batch: Sequence[Prompt], *, pause: Callable[[], None] | None = None
    ) -> Tensor:
        """Return the vectors (B, D) of a batch of prompts, in float32 on the CPU.

        Args:
            batch: B prompts, computed in a single forward pass.
            pause: checkpoint callback, called between layers if the model's attention can be
                exchanged.
        """
        return self._read(batch, get_cache=False, pause=pause)[0].to("cpu", torch.float32)

    def vectors_and_blocks(
        self, batch: Sequence[Prompt], *, pause: Callable[[], None] | None = None
    ) -> tuple[Tensor, list[KVBlock]]:
        """Return the vectors of a batch of prompts as :meth:`vectors` does, and their KV blocks."""
        vector_BD, blocks = self._read(batch, get_cache=True, pause=pause)
        return vector_BD.to("cpu", torch.float32), blocks

    @torch.inference_mode()
    def _read(
        self, batch: Sequence[Prompt], get_cache: bool, pause: Callable[[], None] | None = None
    ) -> tuple[Tensor, list[KVBlock]]:
        lengths = [len(prompt.ids) for prompt in batch]
        ids_T = torch.tensor([i for prompt in batch for i in prompt.ids], device=self.lm.device)
        media = tuple(each for prompt in batch for each in prompt.media)
        hidden_BLD, blocks = self._hidden(
            ids_T, lengths, get_cache=get_cache, pause=pause, media=media
        )
        if self.projection is not None:
            hidden_BLD = self.projection(hidden_BLD.to(self.projection.weight.device))
        vector_BD = self.pool(hidden_BLD, span_mask([p.pooled for p in batch], hidden_BLD))
        return normalise(vector_BD) if self.settings.normalized else vector_BD, blocks

    def _hidden(
        self,
        ids_T: Tensor,
        lengths: list[int],
        *,
        get_cache: bool,
        pause: Callable[[], None] | None,
        media: Sequence[MediaTokens],
    ) -> tuple[Tensor, list[KVBlock]]:
        blocks: list[KVBlock] = []
        if get_cache and self._generating is not None:
            rows = ids_T.split(lengths)
            blocks = [self._generating.causal_block(ids, media=media) for ids in rows]
        from_this_pass = get_cache and self.shares_pass
        if self.causal:
            hidden_TD, own_blocks = self.lm.causal_texts(
                ids_T, lengths, get_blocks=from_this_pass, pause=pause, media=media
            )
        elif from_this_pass:
            hidden_TD, own_blocks = self.lm.hidden_and_blocks(
                ids_T, lengths, pause=pause, media=media
            )
        else:
            hidden_TD = self.lm.hidden_packed(ids_T, lengths, pause=pause, media=media)
            own_blocks = []
        return unpack(hidden_TD, lengths), own_blocks if from_this_pass else blocks


def span_mask(spans: Sequence[tuple[int, int]], hidden_BLD: Tensor) -> Tensor:
    """Return a mask (B, L) that is True inside of each text's span of positions."""
    position_L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)
    start_B1, end_B1 = torch.tensor(spans, device=hidden_BLD.device)[:, :, None].unbind(dim=1)
    return (position_L >= start_B1) & (position_L < end_B1)


def batches(
    prompts: Sequence[Prompt], rows: int, budget: int, *, padded: bool = False
) -> Iterator[list[int]]:
    """Yield batches as lists of indices, sorted by length with the longest texts first.

    With the longest texts first, a lack of memory shows immediately. A text with more tokens than
    the budget is alone in its batch.

    Args:
        prompts: the tokenised texts.
        rows: maximum number of texts in a batch.
        budget: maximum number of tokens in a batch.
        padded: whether padding counts: every text then has the length of the longest text of its
            batch.
    """
    batch: list[int] = []
    tokens = longest = 0
    for index in sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids)):
        size = longest if padded and batch else len(prompts[index].ids)
        if batch and (len(batch) == rows or tokens + size > budget):
            yield batch
            batch = []
            tokens = 0
            size = len(prompts[index].ids)
        longest = size if not batch else longest
        batch.append(index)
        tokens += size
    if batch:
        yield batch


def _progress(total: int, show: bool | None) -> tqdm[Any]:
    """Return a progress bar on stderr.

    With ``show=None`` it appears only on a terminal, and after a second.
    """
    hidden = not sys.stderr.isatty() if show is None else not show
    return tqdm(total=total, unit="text", disable=hidden, delay=0 if show else 1, leave=False)
