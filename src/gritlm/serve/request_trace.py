"""Times and token counts of one request, for its OpenTelemetry span and the spans of its stages.

Nothing here imports OpenTelemetry: ``span_export.py`` makes the spans when the request has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from gritlm.lm.sampling import SamplingParams
from gritlm.serve.engine.requests import (
    EmbedRequest,
    EngineEvent,
    EngineRequest,
    OutputDelta,
    PrefillFinished,
    RequestFinished,
)
from gritlm.serve.http.paths import (
    ANSWER,
    CHAT,
    COHERE_EMBED,
    COHERE_V2_EMBED,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_EMBEDDINGS,
    OLLAMA_GENERATE,
    RESPONSES,
    SEARCH,
    TEI_EMBED,
)

Value = str | bool | int | float | list[str]

# Names of attributes, by the semantic conventions of OpenTelemetry for generative models.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
DATA_SOURCE = "gen_ai.data_source.id"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"

_OPERATIONS = {
    **dict.fromkeys((CHAT, RESPONSES, MESSAGES, OLLAMA_CHAT, ANSWER), "chat"),
    **dict.fromkeys((COMPLETIONS, OLLAMA_GENERATE), "text_completion"),
    **dict.fromkeys((EMBEDDINGS, COHERE_EMBED, COHERE_V2_EMBED, TEI_EMBED), "embeddings"),
    **dict.fromkeys((OLLAMA_EMBED, OLLAMA_EMBEDDINGS), "embeddings"),
    SEARCH: "retrieval",
}


@dataclass
class Stage:
    """A part of a request.

    Attributes:
        name: queue, retrieval, prefill, decode, embed or score.
        start: its begin, as of ``time.monotonic``.
        end: its end.
        attributes: its attributes.
    """

    name: str
    start: float
    end: float
    attributes: dict[str, Value] = field(default_factory=dict)


class RequestTrace:
    """Times and attributes of a request.

    Args:
        method: HTTP method.
        route: path of the route, without names of documents.
        parent: the headers ``traceparent`` and ``tracestate``, as far as they were sent.

    Attributes:
        stages: the stages so far.
        attributes: attributes of the whole request.
    """

    def __init__(self, method: str, route: str, parent: Mapping[str, str]) -> None:
        self.name = f"{method} {route}"
        self.parent = dict(parent)
        self.stages: list[Stage] = []
        self.attributes: dict[str, Value] = {"http.request.method": method, "http.route": route}
        if route in _OPERATIONS:
            self.attributes |= {OPERATION: _OPERATIONS[route], PROVIDER: "gritlm"}
        self.start = time.monotonic()
        self._epoch_ns = time.time_ns() - int(1e9 * self.start)

    def stage(self, name: str, start: float, end: float) -> Stage:
        """Append a stage and return it; its end and its attributes may change later."""
        self.stages.append(Stage(name, start, end))
        return self.stages[-1]

    def note_sampling(self, params: SamplingParams) -> None:
        """Record the sampling parameters of the request."""
        self.attributes["gen_ai.request.max_tokens"] = params.max_new_tokens
        self.attributes["gen_ai.request.temperature"] = params.temperature
        self.attributes["gen_ai.request.top_p"] = params.top_p

    def count(self, name: str, more: int) -> None:
        """Add tokens to a count of the whole request."""
        before = self.attributes.get(name, 0)
        assert isinstance(before, int), "only counts of tokens are added"
        self.attributes[name] = before + more

    def nanoseconds(self, at: float) -> int:
        """Return a time of ``time.monotonic`` in nanoseconds since the epoch."""
        return self._epoch_ns + int(1e9 * at)


# Trace of the current request; None where requests are not traced.
TRACE: ContextVar[RequestTrace | None] = ContextVar("trace of the request", default=None)


class EngineStages:
    """Stages of the engine requests of a request, from their events.

    The stages span all of them: from the first one that begins to the last one that ends.

    Args:
        trace: the trace of the request.
        requests: the engine requests.
        choices: sequences generated from one prompt; the tokens of a prompt count once.
        submitted: when they were submitted, as of ``time.monotonic``.
    """

    def __init__(
        self,
        trace: RequestTrace,
        requests: Sequence[EngineRequest],
        choices: int,
        submitted: float,
    ) -> None:
        self._trace = trace
        self._requests = requests
        self._choices = choices
        self._submitted = submitted
        self._stages: dict[str, Stage] = {}

    def take(self, index: int, event: EngineEvent, begun: float | None, at: float) -> None:
        """Record an event.

        Args:
            index: index of the engine request.
            event: the event.
            begun: when the model began with the engine request; None before.
            at: when the model's thread delivered the event.
        """
        if begun is None:
            return
        self._stage("queue", self._submitted, begun, grows=False)
        if isinstance(event, PrefillFinished):
            stage = self._stage("prefill", begun, at)
            if index % self._choices == 0:
                self._count(stage, INPUT_TOKENS, event.prompt_tokens)
                self._count(stage, CACHED_TOKENS, event.cached_tokens)
            self._stage("decode", at, at)
        elif isinstance(event, OutputDelta):
            self._take_output(event, at)
        elif isinstance(event, RequestFinished):
            request = self._requests[index]
            is_texts = isinstance(request, EmbedRequest)
            stage = self._stage("embed" if is_texts else "score", begun, at)
            if isinstance(request, EmbedRequest):
                self._count(stage, INPUT_TOKENS, sum(len(each.ids) for each in request.prompts))

    def _take_output(self, event: OutputDelta, at: float) -> None:
        stage = self._stage("decode", at, at)
        self._count(stage, OUTPUT_TOKENS, event.tokens)
        if event.finish_reason is not None:
            reasons = self._trace.attributes.setdefault(FINISH_REASONS, [])
            assert isinstance(reasons, list), "reasons are a list from the beginning"
            reasons.append(event.finish_reason)

    def _stage(self, name: str, start: float, end: float, *, grows: bool = True) -> Stage:
        """Return a stage, appended at its first event and extended by later ones."""
        if name not in self._stages:
            self._stages[name] = self._trace.stage(name, start, end)
        elif grows:
            self._stages[name].end = max(self._stages[name].end, end)
        return self._stages[name]

    def _count(self, stage: Stage, name: str, tokens: int) -> None:
        before = stage.attributes.get(name, 0)
        assert isinstance(before, int), "only counts of tokens are added"
        stage.attributes[name] = before + tokens
        self._trace.count(name, tokens)


@contextmanager
def retrieval_stage(store: str) -> Iterator[dict[str, Value]]:
    """Record the block as the search of a document store, if the current request is traced.

    Args:
        store: name of the store.

    Yields:
        The attributes of the stage, to add to.
    """
    trace = TRACE.get()
    if trace is None:
        yield {}
        return
    now = time.monotonic()
    stage = trace.stage("retrieval", now, now)
    stage.attributes[DATA_SOURCE] = trace.attributes[DATA_SOURCE] = store
    try:
        yield stage.attributes
    finally:
        stage.end = time.monotonic()
