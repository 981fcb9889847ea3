"""``POST /v1/completions``: route, parameters, response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response

from gritlm.lm.tokens import Prompt
from gritlm.serve.api.streaming import GeneratedText, TokenUsage
from gritlm.serve.api.structured_output import compile_grammar
from gritlm.serve.api.text_generation import (
    ChoicesBuilder,
    generate_requests,
    respond,
    sampling_params,
    wants_usage,
)
from gritlm.serve.api.tokenization import Ids, PromptTokenizer, characters
from gritlm.serve.engine.requests import OutputDelta, TokenLogprob
from gritlm.serve.errors import invalid
from gritlm.serve.http.paths import COMPLETIONS
from gritlm.serve.schemas.completions import CompletionRequest, CompletionResponse
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router, stream_of

_DEFAULT_TOKENS = 16  # as in OpenAI's API
_MOST_PROMPTS = 64
_MOST_REPORTED = 2**16  # tokens of prompts with log-probabilities: each takes a kilobyte


def routes(service: Service) -> APIRouter:
    """Return the route of completions."""
    router = new_router(tags=["model"])

    @router.post(
        COMPLETIONS,
        response_model=CompletionResponse,
        responses=stream_of(CompletionResponse),
        summary="Create a completion",
    )
    async def complete(body: CompletionRequest) -> Response:
        """Continue one or more texts, as one response or as a stream."""
        name = service.generation_model_name(body.model)
        served = service.served(name)
        usage = wants_usage(body.stream, body.stream_options)
        _require_sizes(body)
        sizes = [characters(prompt) for prompt in body.prompt]
        served.prompts.require_characters(sizes, "prompt {}", param="prompt")
        choices = body.n or 1
        sequences = len(body.prompt) * choices
        with service.scheduler.reserve(sequences) as reservation:
            group = service.new_group(COMPLETIONS, choices=choices)
            grammar = await compile_grammar(service, served.model, body)
            prompts = await service.run_in_worker_thread(served.prompts.prompt_ids, body.prompt)
            texts = await service.run_in_worker_thread(_echoed, served.prompts, body, prompts)
            wanted = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
            most = [served.prompts.max_new_tokens(ids, wanted, param="prompt") for ids in prompts]
            sampling = [
                sampling_params(
                    body,
                    tokens,
                    vocabulary=served.prompts.vocabulary,
                    top_k=body.top_k,
                    logprobs=body.logprobs,
                    grammar=grammar,
                )
                for tokens in most
            ]
            _require_reportable(body, sum(map(len, prompts)) * choices)
            requests = generate_requests(
                [Prompt(list(ids)) for ids in prompts],
                sampling,
                choices,
                model=served.model,
                prompt_logprobs=_reports_prompts(body),
            )
            group.submit(reservation, requests)
        builder = CompletionResponseBuilder(
            service.response_head("cmpl", name, CompletionResponseBuilder.whole_object),
            served.token_texts,
            logprobs=body.logprobs is not None,
            usage=usage,
            echoed=[text for text in texts for _ in range(choices)],
        )
        return await respond(
            group, builder, sequences=sequences, choices=choices, stream=body.stream, usage=usage
        )

    return router


class CompletionResponseBuilder(ChoicesBuilder):
    """Builder of ``text_completion`` objects, which are also the events of a stream.

    Args:
        echoed: texts that the choices begin with; empty for none.
        **options: arguments of :class:`ChoicesBuilder`.
    """

    whole_object = chunk_object = "text_completion"

    def __init__(self, *args: Any, echoed: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._echoed = dict(enumerate(echoed))

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        """Return the response that is sent without a stream."""
        choices = [
            self._choice(index, part.text, part.logprobs, part.finish_reason)
            for index, part in enumerate(parts)
        ]
        return {**self._head, "choices": choices, "usage": tally.usage()}

    def opening(self, index: int) -> Mapping[str, Any] | None:
        """Return None: a choice begins with its text."""
        del index
        return None

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any]:
        """Return the event for new text of a choice."""
        choice = self._choice(index, delta.text, delta.logprobs, delta.finish_reason)
        return self.event([choice])

    def _choice(
        self, index: int, text: str, tokens: Sequence[TokenLogprob], finish_reason: str | None
    ) -> dict[str, Any]:
        logprobs = self._sequence(index).as_completion(tokens) if self._logprobs else None
        text = self._echoed.pop(index, "") + text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _echoed(
    tokenizer: PromptTokenizer, body: CompletionRequest, prompts: Sequence[Ids]
) -> list[str]:
    """Return the texts of the prompts if they are part of the output."""
    if not body.echo:
        return []
    return [
        item if isinstance(item, str) else tokenizer.decode(ids)
        for item, ids in zip(body.prompt, prompts, strict=True)
    ]


def _reports_prompts(body: CompletionRequest) -> bool:
    """Return whether the engine has to report the prompts, which may be all that it reports."""
    return bool(body.echo) and (body.logprobs is not None or body.max_tokens == 0)


def _require_reportable(body: CompletionRequest, tokens: int) -> None:
    if _reports_prompts(body) and tokens > _MOST_REPORTED:
        raise invalid(
            f"the prompts of all choices have {tokens:,} tokens, with echo and logprobs at most "
            f"{_MOST_REPORTED:,} are taken; send fewer prompts",
            param="prompt",
        )


def _require_sizes(body: CompletionRequest) -> None:
    if body.max_tokens == 0 and not body.echo:
        raise invalid(
            "max_tokens=0 generates nothing; expected at least 1, or echo=true for the prompt",
            param="max_tokens",
        )
    if len(body.prompt) > _MOST_PROMPTS:
        raise invalid(
            f"{len(body.prompt)} prompts; expected at most {_MOST_PROMPTS}", param="prompt"
        )
