"""A client of the scheduler: it keeps what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.tokens import Prompt
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.requests import (
    EmbedRequest,
    EngineEvent,
    EngineRequest,
    GenerateRequest,
    ModelJob,
    OutputDelta,
    PrefillFinished,
    RequestFailed,
    RequestFinished,
)
from gritlm.serve.engine.scheduler import Scheduler

PATIENCE_S = 60


def endless(tiny_model: Callable[..., Path]) -> GritLM:
    """A tiny model whose chats end only when they are full."""
    folder = tiny_model(max_position_embeddings=512)
    made = GritLM(folder, dtype="float32", device="cpu")
    made.tokenizer.eos_token = None
    made.lm.causal.generation_config.eos_token_id = None
    return made


class Asked:
    """One request and its events.

    Args:
        seen: called on the model's thread with each event.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        work: EngineRequest,
        seen: Callable[[EngineEvent], None] | None = None,
    ) -> None:
        self.events: list[EngineEvent] = []
        self._seen, self._over, self._begun = seen, threading.Event(), threading.Event()
        self.ticket = scheduler.submit(work, self._deliver)

    def _deliver(self, event: EngineEvent) -> None:
        self.events.append(event)
        if isinstance(event, OutputDelta):
            self._begun.set()
        if isinstance(event, RequestFinished | RequestFailed) or getattr(
            event, "finish_reason", None
        ):
            self._over.set()
        if self._seen is not None:
            self._seen(event)

    def begun(self) -> Asked:
        """When its first token is there."""
        assert self._begun.wait(PATIENCE_S)
        return self

    def ended(self) -> Asked:
        assert self._over.wait(PATIENCE_S), self.events
        return self

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    @property
    def deltas(self) -> list[OutputDelta]:
        return [event for event in self.events if isinstance(event, OutputDelta)]

    @property
    def text(self) -> str:
        """The whole answer."""
        self.ended()
        return "".join(delta.text for delta in self.deltas)

    @property
    def started(self) -> PrefillFinished:
        self.begun()
        return next(event for event in self.events if isinstance(event, PrefillFinished))

    @property
    def value(self) -> Any:
        """What ToEmbed or ToDo came to."""
        self.ended()
        (event,) = self.events
        assert isinstance(event, RequestFinished), event
        return event.value

    @property
    def error(self) -> Exception:
        event = self.ended().events[-1]
        assert isinstance(event, RequestFailed), event
        return event.error


def to_write(model: GritLM, text: str, tokens: int = 16, **writing: Any) -> GenerateRequest:
    return GenerateRequest(tuple(model.chat_ids(text)), SamplingParams(tokens, **writing))


def to_embed(model: GritLM, texts: list[str]) -> EmbedRequest:
    prompts, _ = model.encoder.tokens.for_embedding(texts, max_length=model.max_length)
    return EmbedRequest(tuple(prompts))


def texts_of(lengths: list[int]) -> EmbedRequest:
    """Texts of so many tokens."""
    return EmbedRequest(tuple(Prompt([1, *range(3, n + 2)], pooled=(0, n)) for n in lengths))


@contextmanager
def scheduled(model: GritLM, **limits: int) -> Iterator[Scheduler]:
    """A scheduler; what was asked of it ends first, then its thread."""
    scheduler = Scheduler(model, Limits(**({"max_num_seqs": 4} | limits)))
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.stop(deadline_s=PATIENCE_S)


@contextmanager
def held(scheduler: Scheduler) -> Iterator[None]:
    """The model's thread stands still, so that all that is asked meanwhile arrives together."""
    reached, go = threading.Event(), threading.Event()

    def stand(checkpoint: Callable[[], None]) -> None:
        reached.set()
        assert go.wait(PATIENCE_S)

    asked = Asked(scheduler, ModelJob(stand))
    assert reached.wait(PATIENCE_S)
    try:
        yield
    finally:
        go.set()
        asked.ended()
