"""What all routes share: model, scheduler, threads that tokenize, metrics, state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import time
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import uuid4

from gritlm.lm.gritlm import GritLM
from gritlm.runtime import in_a_thread_of_its_own
from gritlm.serve.api.calls import RequestGroup
from gritlm.serve.api.logprobs import TokenTexts
from gritlm.serve.api.tokenization import PromptTokenizer
from gritlm.serve.config import UPLOADS, ServerConfig
from gritlm.serve.engine.requests import ModelJob
from gritlm.serve.engine.scheduler import Scheduler
from gritlm.serve.errors import ApiError, invalid, no_model
from gritlm.serve.health import HealthCheck
from gritlm.serve.metrics import Metrics

if TYPE_CHECKING:
    from gritlm.rag.engine import RagEngine

_SEARCHES = 2  # threads; LanceDB uses more for each search

P = ParamSpec("P")
T = TypeVar("T")


class Service:
    """One model behind one scheduler, as the routes use it.

    Args:
        rag_engine: the engine of the document store; None without a store.
        budget: tokens that are read between two steps of the running chats.

    Attributes:
        draining: no new requests are taken.
        running: requests that were taken and are not answered yet.
    """

    def __init__(
        self,
        model: GritLM,
        scheduler: Scheduler,
        settings: ServerConfig,
        rag_engine: RagEngine | None = None,
        *,
        budget: int = 512,
    ) -> None:
        self.model = model
        self.scheduler = scheduler
        self.settings = settings
        self.budget = budget
        self.meter = Metrics(scheduler.stats)
        self.prompts = PromptTokenizer(
            model, limit=scheduler.max_model_len, most=scheduler.max_request_tokens
        )
        self.spelling = TokenTexts(self.prompts.tokens)
        self.created = int(time())
        self.fingerprint = model.lm.fingerprint
        self.draining = False
        self.running = 0
        self.rag_engine = rag_engine
        self._on_close = ExitStack()
        self._probe = HealthCheck(model, scheduler, settings.health_timeout_s)
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="gritlm-tokenize")
        self._readers = ThreadPoolExecutor(UPLOADS, thread_name_prefix="gritlm-uploads")
        self._searches = ThreadPoolExecutor(_SEARCHES, thread_name_prefix="gritlm-search")
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="gritlm-store")

    def close(self) -> None:
        """End the threads that tokenize, read files, search and write documents."""
        self._on_close.close()
        for pool in (self._pool, self._readers, self._searches, self._writes):
            pool.shutdown(wait=True, cancel_futures=True)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Register a callback that runs before the threads end."""
        self._on_close.callback(callback)

    async def off_loop(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run in one of the threads, so that the event loop goes on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(*args, **options))

    async def multiplying(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """As :meth:`off_loop`, for what multiplies matrices, which would slow the model down for
        good in a thread that stays: see :func:`gritlm.runtime.in_a_thread_of_its_own`."""
        return await self.off_loop(in_a_thread_of_its_own, lambda: call(*args, **options))

    async def off_loop_slowly(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run as :meth:`off_loop` does, a few at a time: files may take long."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: call(*args, **options))

    async def searching(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Read the index of documents, while the model and the event loop go on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._searches, lambda: call(*args, **options))

    async def storing(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Write documents, one call at a time in the order of the calls: requests that make several
        take turns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writes, lambda: call(*args, **options))

    async def aside(
        self, endpoint: str, run: Callable[[Callable[[], None]], T], *, first: bool = True
    ) -> T:
        """Run short work on the model's thread, for a request that keeps a place for other works.

        Args:
            run: is handed the checkpoint that it calls now and then in long work.
            first: whether the request waits for the model for the first time.
        """
        with self.calls(endpoint, first=first, last=False) as calls:
            calls.submit_aside(self.scheduler, ModelJob(run, beside=True))
            return await calls.result()  # type: ignore[return-value]

    def calls(
        self, endpoint: str, *, choices: int = 1, first: bool = True, last: bool = True
    ) -> RequestGroup:
        """
        Args:
            choices: works of one prompt.
            first, last: whether the request waits for the model first, or ends, with them.
        """
        return RequestGroup(self.meter, endpoint=endpoint, choices=choices, first=first, last=last)

    def model_name(self, requested: str | None) -> str:
        """Return the model name to use in the response.

        Args:
            requested: the name in the request; None for the server's first name.

        Raises:
            ApiError: for a name this server does not have.
        """
        if requested is not None and requested not in self.settings.names:
            raise no_model(requested[:200], self.settings.names)
        return self.settings.names[0] if requested is None else requested

    def generation_model_name(self, requested: str | None) -> str:
        """Return the model name as :meth:`model_name` does, for a request that generates text.

        Raises:
            ApiError: also for a model loaded without an LM head.
        """
        name = self.model_name(requested)
        if not self.model.lm.has_head:
            raise _cannot("write", "embedding")
        return name

    def embedding_model_name(self, requested: str | None) -> str:
        """Return the model name as :meth:`model_name` does, for a request that embeds texts.

        Raises:
            ApiError: also for a model loaded with ``mode='generative'``.
        """
        name = self.model_name(requested)
        if self.model.mode == "generative":
            raise _cannot("embed", "generative")
        return name

    @property
    def has_documents(self) -> bool:
        """Whether the server has a document store."""
        return self.rag_engine is not None

    def head(self, kind: str, name: str, object: str) -> dict[str, Any]:
        """What every answer and every event begins with."""
        return {
            "id": f"{kind}-{uuid4().hex}",
            "object": object,
            "created": int(time()),
            "model": name,
            "system_fingerprint": self.fingerprint,
        }

    async def try_model(self) -> None:
        """Have the model read a token on its thread.

        A thread that is busy with other work, and looks at its queue meanwhile, is well too.

        Raises:
            ApiError: when it does neither within the time that is set for it.
        """
        await self._probe.require_well()


def _cannot(what: str, mode: str) -> ApiError:
    return invalid(
        f"this server's model was loaded with mode='{mode}' and does not {what}",
        param="model",
        code="unsupported_value",
    )
