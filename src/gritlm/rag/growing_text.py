"""Texts that are generated together: their tokens, and drafts that one pass verifies for several.

Shapes: S positions of a pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from torch import Tensor

from gritlm.lm.generator import TextStream
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams, is_complete
from gritlm.lm.side_by_side import worthwhile_padded_drafts
from gritlm.rag.answer import PreparedAnswer


class GrowingText:
    """The text of one answer while it is generated.

    Attributes:
        prepared: the answer before its first token.
        text: the text so far.
        token: the token drawn last.
        ended: whether the text is complete.
    """

    def __init__(self, model: GritLM, prepared: PreparedAnswer, sampling: SamplingParams) -> None:
        self._end_ids = sampling.all_end_ids(model.end_ids)
        self._sampler = sampling.sampler(end_ids=self._end_ids)
        self._stream = TextStream(model.tokenizer, sampling.stop, ignore=sampling.min_new_tokens)
        self._lookup = sampling.lookup(prepared.prompt.ids)
        self._began = perf_counter()
        self.prepared = prepared
        self.text = ""
        self.token = -1
        self.ended = False

    def draw(self, logits_V: Tensor) -> None:
        """Draw the next token."""
        trace = self.prepared.trace
        self.token = self._sampler(logits_V)
        if self._lookup is not None:
            self._lookup.add(self.token)
        now = perf_counter()
        trace.milliseconds.setdefault("first_token", 1000 * (now - self.prepared.started))
        if self.token in self._end_ids:
            self.ended = True
        else:
            trace.tokens_generated += 1
            self.text += self._stream.push(self.token)
            full = trace.tokens_generated == self.prepared.prompt.room
            self.ended = full or self._stream.stopped or is_complete(self._sampler)
        if self.ended:
            self.text += "" if self._stream.stopped else self._stream.close()
            trace.add("decode", now - self._began)

    def draw_drafted(self, draft: Sequence[int], logits_SV: Tensor) -> int:
        """Draw tokens up to the first that is not the drafted one.

        Args:
            draft: the draft; empty for a single token.
            logits_SV: logits of the last positions, of which the first ones are padding.

        Returns:
            The number of tokens of the draft that were not drawn.
        """
        if self.ended:
            return 0
        accepted = 0
        for logits_V in logits_SV[-1 - len(draft) :]:
            self.draw(logits_V)
            if self.ended or draft[accepted : accepted + 1] != [self.token]:
                break
            accepted += 1
        if self._lookup is not None:
            self._lookup.judge(len(draft), accepted)
        return len(draft) - accepted

    def draft(self) -> tuple[list[int], float]:
        """Return tokens that may come next, and how many of them are expected to be right."""
        room = self.prepared.prompt.room - self.prepared.trace.tokens_generated - 1
        draft = [] if self._lookup is None or self.ended else self._lookup.draft(room)
        return draft, 0.0 if self._lookup is None else self._lookup.expected(len(draft))

    def watch(self, draft: Sequence[int]) -> None:
        """Adapt later drafts by the tokens that are drawn next, where no pass verifies this one."""
        if self._lookup is not None:
            self._lookup.watch(draft)


def choose_drafts(texts: Sequence[GrowingText]) -> list[list[int]]:
    """Return the draft of each text that the next pass verifies; empty for no draft.

    Args:
        texts: the texts of a batch, also those that have ended.
    """
    running = [text for text in texts if not text.ended]
    found = [text.draft() for text in running]
    drafts = [draft for draft, _ in found]
    chosen = worthwhile_padded_drafts(drafts, [right for _, right in found], rows=len(texts))
    for text, draft, taken in zip(running, drafts, chosen, strict=True):
        if draft and not taken:
            text.watch(draft)
    left = iter(chosen)
    return [[] if text.ended else next(left) for text in texts]
