"""Adapter of GritLM to lm-eval's model interface, computed by our engine.

Requests are tokenised as by lm-eval's own ``hf`` model, so that both can be compared request by
request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from gritlm.errors import InputError
from gritlm.evaluation.generation import loglikelihood, writing
from gritlm.evaluation.generation.chat_texts import ChatTexts
from gritlm.evaluation.generation.loglikelihood import Score
from gritlm.evaluation.generation.shared_prefixes import Pair
from gritlm.evaluation.memory import BatchSizeReducer
from gritlm.lm.chat import Message
from gritlm.lm.gritlm import GritLM

log = logging.getLogger(__name__)

Encoded = tuple[tuple[str, str], list[int], list[int]]


class GritLMHarness(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """Implementation of lm-eval's ``LM`` with a GritLM.

    Args:
        model: model with its LM head.
        progress: whether to show a progress bar for each type of request.
    """

    def __init__(self, model: GritLM, *, progress: bool = False) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = model.tokenizer
        self.progress = progress
        self._chats = ChatTexts(model)
        self._reducer = BatchSizeReducer()

    @property
    def eot_token_id(self) -> Any:
        """Id of the end-of-text token; None without one."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> Any:
        """Id of the token before a text without context: BOS, or the end-of-text token."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """Context length of the model, in tokens."""
        return int(resolve_max_length(self.model.lm.config, self.tokenizer))

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in lm-eval's caches."""
        return str(self.model.source).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template; None if chat is off."""
        return self._chats.template if chat_template else None

    def apply_chat_template(
        self, chat_history: Sequence[Message], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text."""
        return self._chats.text(chat_history, answer=add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the token ids of a text, with BOS unless the text begins with it."""
        if add_special_tokens is None:
            first = self.prefix_token_id
            begun = first is not None and has_bos_prefix(string, self.tokenizer.decode(first))
            add_special_tokens = not begun
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[Score]:
        """Return the log-likelihood of each continuation, and whether greedy decoding gives it."""
        del disable_tqdm  # _loglikelihood_tokens shows a bar
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of each text; texts over the context length use windows."""
        windows = [list(self._windows(request.args[0])) for request in requests]
        flat = [pair for pairs in windows for pair in pairs]
        with self._bar(len(flat), disable_tqdm) as bar:
            found = {pair: score for pair, (score, _) in self._score_pairs(flat, bar)}
        totals = [sum(found[pair] for pair in pairs) for pairs in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the generated continuation of each context."""
        found = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        with self._bar(len(requests), disable_tqdm) as bar:
            for numbers in groups.values():
                arguments = [requests[number].args for number in numbers]
                for index, text in self._generate(arguments):
                    number = numbers[index]
                    found[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update(1)
        return found

    def _generate(self, group: Sequence[tuple[str, dict[str, Any]]]) -> Iterable[tuple[int, str]]:
        """Yield index and answer of requests that have the same ``generation_kwargs``."""
        end = self.tokenizer.eos_token_id
        text = None if end is None else str(self.tokenizer.decode([end]))
        settings = writing.generation_settings(group[0][1], end=text)
        room = self.max_length - settings.max_new_tokens
        if room < 1:
            raise InputError(
                f"max_gen_toks={settings.max_new_tokens}, the model takes {self.max_length} tokens "
                "with the context; lower max_gen_toks in the task's generation_kwargs"
            )
        prompts = [tuple(self._encode(context)) for context, _ in group]
        self._warn_of_cuts(sum(len(ids) > room for ids in prompts), len(prompts), room)
        cut = [ids[-room:] for ids in prompts]
        return writing.answers(self.model, cut, settings, reducer=self._reducer)

    def _encode(self, context: str) -> list[int]:
        known = self._chats.ids(context)
        return self.tok_encode(context) if known is None else known

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        known = self._chats.ids(context)
        if known is None:
            return super()._encode_pair(context, continuation)
        return known, self._chats.continuation(continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **_: Any
    ) -> list[Score]:
        pairs = [self._fit(*request) for request in requests]
        cut = sum(
            len(request[1]) > len(pair[0]) for request, pair in zip(requests, pairs, strict=True)
        )
        self._warn_of_cuts(cut, len(requests), self.max_length)
        texts_of: dict[Pair, set[tuple[str, str]]] = {}
        for pair, request in zip(pairs, requests, strict=True):
            texts_of.setdefault(pair, set()).add(request[0])
        found: dict[Pair, Score] = {}
        with self._bar(len(texts_of), disable_tqdm) as bar:
            for pair, score in self._score_pairs(pairs, bar):
                found[pair] = score
                for texts in texts_of[pair]:
                    self.cache_hook.add_partial("loglikelihood", texts, score)
        return [found[pair] for pair in pairs]

    def _fit(self, texts: tuple[str, str], context: list[int], continuation: list[int]) -> Pair:
        """Cut the beginning of a context that is too long, as lm-eval's hf model does."""
        if not context or not 0 < len(continuation) <= self.max_length:
            raise InputError(
                f"the continuation {texts[1][:60]!r} of the context {texts[0][-60:]!r} has "
                f"{len(continuation)} tokens, the context {len(context)}; expected 1 to "
                f"{self.max_length} behind at least 1"
            )
        return tuple(context[-(self.max_length + 1 - len(continuation)) :]), tuple(continuation)

    def _score_pairs(self, pairs: Sequence[Pair], bar: Any) -> Iterable[tuple[Pair, Score]]:
        for pair, score in loglikelihood.scores(self.model.lm, pairs, reducer=self._reducer):
            yield pair, score
            bar.update(1)

    def _windows(self, text: str) -> Iterable[Pair]:
        for window in get_rolling_token_windows(
            self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
        ):
            context, continuation = make_disjoint_window(window)
            yield tuple(context), tuple(continuation)

    def _bar(self, total: int, hidden: bool) -> Any:
        return tqdm(total=total, unit="request", leave=False, disable=hidden or not self.progress)

    def _warn_of_cuts(self, cut: int, of: int, limit: int) -> None:
        if cut:
            log.warning(
                "%d of %d contexts are longer than the model takes (%d tokens are left for them) "
                "and lost their beginning",
                cut,
                of,
                limit,
            )
