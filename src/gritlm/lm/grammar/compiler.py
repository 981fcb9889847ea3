"""Compiled grammars of a tokenizer: which tokens may come next in a sequence.

Shapes: V vocabulary.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gritlm.errors import InputError, ModelError, one_line
from gritlm.lm.grammar.formats import MAX_SOURCE, OutputFormat, require

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_MOST_GRAMMARS = 64  # in the cache
_MOST_CHARACTERS = 8 * MAX_SOURCE  # of the sources of all grammars in the cache
# Bounds on the work of one grammar. With them the worst schemas of 128 KiB take two seconds to
# compile, and a token takes milliseconds.
# The source below a message, with a mark, and the place of the parser's state.
_QUOTED_SOURCE = re.compile(r"^\s*(\d+ \|.*|\^+|<non-verbose/>)$", re.MULTILINE)
_OF_SCHEMAS = "failed to compile JSON schema: "  # begins the library's errors
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_lexer_states": 25_000,
    "max_grammar_size": 250_000,
    "verbose_errors": False,
}


class Grammar:
    """A compiled grammar; sequences that follow it share it.

    Args:
        matcher: the matcher at the beginning of a text.
        end_ids: token ids that end a text.
    """

    def __init__(self, matcher: LLMatcher, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self._lock = threading.Lock()

    def start(self) -> Constraint:
        """Return a constraint at the beginning of a text."""
        with self._lock:  # a matcher refuses two threads
            return Constraint(self._matcher.deep_copy(), self._end_ids)


class Constraint:
    """Tokens that a grammar allows at the end of one sequence.

    Args:
        matcher: the matcher of this sequence alone.
        end_ids: token ids that end a text.

    Attributes:
        complete: whether the text is complete and no token can follow.
    """

    def __init__(self, matcher: LLMatcher, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self.complete = False

    def apply(self, logits_V: Tensor) -> None:
        """Set the logits (V,) of all tokens that are not allowed to minus infinity.

        Raises:
            InputError: for a grammar that allows no token, or is too complex at this point.
        """
        allowed_V = _flags(self._matcher, len(logits_V))
        forbidden_V = torch.from_numpy(allowed_V == 0).to(logits_V.device)
        logits_V.masked_fill_(forbidden_V, float("-inf"))

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn.

        Raises:
            InputError: for a token that the grammar does not allow.
        """
        if token in self._end_ids:
            self.complete = True
            return
        if not self._matcher.consume_token(token):
            raise _failed(self._matcher)
        self.complete = self._matcher.is_stopped()


class GrammarCompiler:
    """Compiler of grammars for one tokenizer, with a bounded cache; safe in several threads.

    Args:
        tokenizer: the tokenizer.
        vocabulary: token ids of the model.
        end_ids: token ids that end a text.

    Raises:
        MissingExtraError: when llguidance is not installed.
        ModelError: for a tokenizer that cannot be read, or a model without an end token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, end_ids: Collection[int]
    ) -> None:
        self._end_ids = frozenset(end_ids)
        self._tokenizer = _tokenizer(tokenizer, vocabulary, sorted(self._end_ids))
        self._cache: OrderedDict[str, Grammar] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def compile(self, output_format: OutputFormat) -> Grammar:
        """Return the grammar of a format, from the cache if it was compiled before.

        Raises:
            InputError: for a format that cannot be compiled or is too complex.
        """
        key = output_format.lark
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        grammar = self._compiled(key)
        with self._lock:
            self._keep(key, grammar)
        return grammar

    def _compiled(self, lark: str) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        matcher = LLMatcher(
            self._tokenizer,
            LLMatcher.grammar_from_lark(lark),
            log_level=0,
            limits=LLParserLimits(**_LIMITS),
        )
        if matcher.is_error():
            raise _failed(matcher)
        _flags(matcher.deep_copy(), self._tokenizer.vocab_size)  # some are too complex only here
        return Grammar(matcher, self._end_ids)

    def _keep(self, key: str, grammar: Grammar) -> None:
        if key not in self._cache:
            self._cache[key] = grammar
            self._characters += len(key)
        while len(self._cache) > _MOST_GRAMMARS or self._characters > _MOST_CHARACTERS:
            oldest, _ = self._cache.popitem(last=False)
            self._characters -= len(oldest)


def _flags(matcher: LLMatcher, size: int) -> Any:
    """Return 1 for every allowed token (V,), 0 for all others.

    Raises:
        InputError: if no token is allowed, or the grammar is too complex.
    """
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    if matcher.is_error():
        raise _failed(matcher)
    allowed = np.unpackbits(bits, bitorder="little", count=min(size, 8 * len(bits)))
    if not allowed.any():
        raise InputError(
            "the output format allows none of the model's tokens at this point; allow other texts"
        )
    return allowed if len(allowed) == size else np.pad(allowed, (0, size - len(allowed)))


def _failed(matcher: LLMatcher) -> InputError:
    text = _QUOTED_SOURCE.sub("", matcher.get_error()) or matcher.stop_reason()
    reason = one_line(text.partition(_OF_SCHEMAS)[2] or text, limit=300)
    return InputError(
        f"the output format cannot be enforced ({reason.rstrip('.')}); simplify or repair it"
    )


def _tokenizer(
    tokenizer: PreTrainedTokenizerBase, vocabulary: int, end_ids: list[int]
) -> LLTokenizer:
    require()
    from llguidance import LLTokenizer

    if not end_ids:
        raise ModelError(
            "this model has no end token, which structured output needs; give its tokenizer an "
            "eos_token"
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"structured output needs a tokenizer with a tokenizer.json, and this one is a "
            f"{type(tokenizer).__name__}; save it as a fast tokenizer"
        )
    description = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    size = max(vocabulary, len(tokenizer))
    return LLTokenizer(json.dumps(description), n_vocab=size, eos_token=end_ids)
