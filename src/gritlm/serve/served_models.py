"""Models of a server: one base with adapters over it, each under names of its own in the API."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from gritlm.errors import GritLMError, InputError
from gritlm.lm.gritlm import GritLM
from gritlm.runtime import in_a_thread_of_its_own
from gritlm.serve.api.chat_prompts import ChatPrompts
from gritlm.serve.api.logprobs import TokenTexts
from gritlm.serve.api.tokenization import PromptTokenizer


@dataclass(frozen=True)
class ServedModel:
    """A model of the server.

    Attributes:
        names: its names in the API.
        model: the model.
        parent: name of the model whose base it has an adapter over; None for the first model.
        prompts: tokenizes prompts and texts.
        chat_prompts: tokenizes conversations.
        token_texts: texts of single tokens, for log-probabilities.
        fingerprint: identity of the weights.
    """

    names: tuple[str, ...]
    model: GritLM
    parent: str | None
    prompts: PromptTokenizer
    chat_prompts: ChatPrompts
    token_texts: TokenTexts
    fingerprint: str


def served_models(
    model: GritLM, names: Sequence[str], *, limit: int, most: int
) -> dict[str, ServedModel]:
    """Return the models of a server by each of their names, the first model first.

    Args:
        model: the first model, which requests without a name get.
        names: its names; those of the others are the names of their adapters.
        limit: most tokens of a prompt with its output, or of a text to embed.
        most: most tokens of all texts of one request.

    Raises:
        InputError: for an adapter with a name of the first model.
    """
    for name in model.adapters:
        if name in names:
            raise InputError(
                f"the adapter {name!r} has the name of the model itself; give it another one, or "
                "the model another --served-model-name"
            )
    found = [(model, tuple(names))]
    found += [(model.with_adapter(name), (name,)) for name in model.adapters]
    models = [_served(each, own, limit, most, names[0]) for each, own in found]
    return {name: each for each in models for name in each.names}


def _served(
    model: GritLM, names: tuple[str, ...], limit: int, most: int, first: str
) -> ServedModel:
    prompts = PromptTokenizer(model, limit=limit, most=most)
    if model.lm.has_head:
        with suppress(GritLMError):  # requests for structured output get the reason
            _ = model.grammar_compiler  # reads the vocabulary, which would hold requests up
    return ServedModel(
        names,
        model,
        None if first in names else first,
        prompts,
        ChatPrompts(model, prompts.tokens),
        TokenTexts(prompts.tokens),
        # The hash of an adapter takes matrix products.
        in_a_thread_of_its_own(lambda: model.lm.fingerprint),
    )
