"""The service behind all routes: model, scheduler, worker threads, metrics and state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import time
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import uuid4

from gritlm.lm.gritlm import GritLM
from gritlm.runtime import in_a_thread_of_its_own
from gritlm.serve.api.request_group import RequestGroup
from gritlm.serve.config import UPLOAD_THREADS, ServerConfig
from gritlm.serve.engine.requests import JointRun, ModelJob
from gritlm.serve.engine.scheduler import Scheduler
from gritlm.serve.errors import ApiError, invalid, no_model, other_model
from gritlm.serve.health import HealthCheck
from gritlm.serve.key_file import KeyRing
from gritlm.serve.media_decoding import MediaDecoding
from gritlm.serve.metrics import Metrics
from gritlm.serve.request_trace import MODEL, TRACE
from gritlm.serve.served_models import ServedModel, served_models
from gritlm.serve.span_export import open_span_export
from gritlm.serve.stores import RAG_SUFFIX, Stores

if TYPE_CHECKING:
    from gritlm.rag.engine import RagEngine

_COMPILERS = 2  # grammars compiled in parallel: a large one holds up no small one
_SEARCHES = 2  # searches in parallel; LanceDB uses more threads for each

P = ParamSpec("P")
T = TypeVar("T")


class Service:
    """A model and its scheduler, with everything else that the routes share.

    Args:
        model: the model.
        scheduler: the scheduler of its thread.
        settings: settings of the HTTP server.
        engines: engines of the document stores, by name.
        budget: most prefill or embedding tokens between two decode steps.

    Attributes:
        metrics: metrics of the requests.
        stores: the document stores.
        models: the model, and those with other adapters over its base, by each of their names.
        first: the model of requests that name none.
        key_ring: the API keys.
        spans: export of requests as spans; None for none.
        decoding: decodes images and sounds of requests.
        created: start of the service, in seconds since the epoch.
        draining: whether new requests are refused.
        running: accepted requests without a complete response.
    """

    def __init__(
        self,
        model: GritLM,
        scheduler: Scheduler,
        settings: ServerConfig,
        engines: Mapping[str, RagEngine] | None = None,
        *,
        budget: int = 512,
    ) -> None:
        self.model = model
        self.scheduler = scheduler
        self.settings = settings
        self.budget = budget
        self.metrics = Metrics(scheduler.stats, model.kv_bytes_per_token())
        self.models = served_models(
            model,
            settings.names,
            limit=scheduler.max_model_len,
            most=scheduler.max_request_tokens,
        )
        self.first = self.models[settings.names[0]]
        self.created = int(time())
        self.draining = False
        self.running = 0
        self.stores = Stores(engines or {})
        self.key_ring = KeyRing(settings.api_keys, settings.key_file, self.stores.names)
        self.spans = open_span_export(os.environ)
        self.decoding = MediaDecoding(settings)
        self._on_close = ExitStack()
        self._on_close.callback(self.decoding.close)
        self._health = HealthCheck(model, scheduler, settings.health_timeout_s)
        self._tokenize_pool = ThreadPoolExecutor(
            settings.threads, thread_name_prefix="gritlm-tokenize"
        )
        self._upload_pool = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="gritlm-uploads")
        self._search_pool = ThreadPoolExecutor(_SEARCHES, thread_name_prefix="gritlm-search")
        self._grammar_pool = ThreadPoolExecutor(_COMPILERS, thread_name_prefix="gritlm-grammar")
        self._store_pool = ThreadPoolExecutor(1, thread_name_prefix="gritlm-store")

    def close(self) -> None:
        """Run the registered callbacks, then end all worker threads."""
        self._on_close.close()
        for pool in (
            self._tokenize_pool,
            self._upload_pool,
            self._search_pool,
            self._grammar_pool,
            self._store_pool,
        ):
            pool.shutdown(wait=True, cancel_futures=True)
        if self.spans is not None:
            self.spans.close()

    def on_close(self, callback: Callable[[], None]) -> None:
        """Register a callback that runs before the threads end."""
        self._on_close.callback(callback)

    async def run_in_worker_thread(
        self, call: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a function in a worker thread, so that the event loop goes on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenize_pool, lambda: call(*args, **options))

    async def run_in_new_thread(
        self, call: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a function that multiplies matrices in a thread of its own.

        In a thread that stays it would slow the model down for good; see
        :func:`gritlm.runtime.in_a_thread_of_its_own`.
        """
        return await self.run_in_worker_thread(
            in_a_thread_of_its_own, lambda: call(*args, **options)
        )

    async def run_in_upload_thread(
        self, call: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a function that parses uploaded files, a few at a time: files may take long."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._upload_pool, lambda: call(*args, **options))

    async def run_in_grammar_thread(
        self, call: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Compile a grammar, a few at a time, while the model and the event loop go on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._grammar_pool, lambda: call(*args, **options))

    async def run_in_search_thread(
        self, call: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a search of the document index, while the model and the event loop go on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._search_pool, lambda: call(*args, **options))

    async def run_in_store_thread(
        self, call: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a function that writes documents, one at a time in the order of submission.

        A request that writes in several portions lets other requests write in between.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._store_pool, lambda: call(*args, **options))

    async def run_short_job(
        self,
        endpoint: str,
        run: Callable[[Callable[[], None]], T],
        *,
        first: bool = True,
        joint: JointRun | None = None,
    ) -> T:
        """Run a short job on the model's thread, for a request that holds a reservation already.

        Args:
            endpoint: path of the route, for the metrics.
            run: the job; it gets the checkpoint callback and calls it now and then in long work.
            first: whether the request waits for the model for the first time.
            joint: the job together with others; None for a job that runs alone.

        Returns:
            The result of the job.
        """
        with self.new_group(endpoint, first=first, last=False) as group:
            group.submit_uncounted(self.scheduler, ModelJob(run, nested=True, joint=joint))
            return await group.result()  # type: ignore[return-value]

    def new_group(
        self, endpoint: str, *, choices: int = 1, first: bool = True, last: bool = True
    ) -> RequestGroup:
        """Return a group for the engine requests of one HTTP request.

        Args:
            endpoint: path of the route, for the metrics.
            choices: sequences generated from one prompt.
            first: whether the HTTP request waits for the model for the first time.
            last: whether the HTTP request ends with this group.
        """
        return RequestGroup(
            self.metrics, endpoint=endpoint, choices=choices, first=first, last=last
        )

    def model_name(self, requested: str | None) -> str:
        """Return the model name to use in the response.

        Args:
            requested: the name in the request; None for the server's first name.

        Raises:
            ApiError: for a name this server does not have.
        """
        if requested is not None and requested not in self.models:
            raise no_model(requested[:200], self.chat_names)
        name = self.first.names[0] if requested is None else requested
        if (trace := TRACE.get()) is not None:
            trace.attributes[MODEL] = name
        return name

    def name_of(self, model: GritLM) -> str:
        """Return the first name of a model of this server."""
        return next(name for name, each in self.models.items() if each.model is model)

    def served(self, name: str | None) -> ServedModel:
        """Return the model behind a name of this server.

        Args:
            name: the name, perhaps with the suffix of chats that are answered from documents; None
                for the first model.

        Raises:
            ApiError: for a name this server does not have.
        """
        if name is None:
            return self.first
        return self.models[self.model_name(self.plain_name(name))]

    def generation_model_name(self, requested: str | None) -> str:
        """Return the model name as :meth:`model_name` does, for a request that generates text.

        Raises:
            ApiError: also for a model loaded without an LM head.
        """
        name = self.model_name(requested)
        if not self.model.lm.has_head:
            raise _unsupported("generate", "embedding")
        return name

    def rag_store(self, requested: str | None) -> tuple[str, str | None] | None:
        """Return the parts of a model name that stands for chats answered from documents.

        Args:
            requested: a name such as ``gritlm:rag`` or ``gritlm:rag:papers``.

        Returns:
            The plain model name, and the name of the store or None; None for any other name.
        """
        if requested is None or requested in self.models:
            return None
        for name in self.models:
            rest = requested.removeprefix(name + RAG_SUFFIX)
            if rest == "":
                return name, None
            if rest != requested and rest.startswith(":"):
                return name, rest[1:]
        return None

    def plain_name(self, requested: str) -> str:
        """Return a model name without the suffix of chats that are answered from documents."""
        parts = self.rag_store(requested)
        return requested if parts is None else parts[0]

    def rag_model_name(self, requested: str | None) -> str:
        """Return the model name as :meth:`generation_model_name` does, with or without the suffix
        of chats that are answered from documents."""
        if requested is None:
            return self.generation_model_name(None)
        self.generation_model_name(self.plain_name(requested))
        return requested

    @property
    def chat_names(self) -> tuple[str, ...]:
        """The model names that chats may use: each also with ``:rag`` for the stores that the key
        of the request may search."""
        names = tuple(self.models)
        rag = [
            f"{name}{suffix}"
            for name, served in self.models.items()
            for suffix in self.stores.model_suffixes(served.model)
        ]
        return (*names, *(name for name in rag if name not in names))

    def choose_store(self, requested: str | None, model: str | None) -> str:
        """Return the name of the store of a request.

        Args:
            requested: the name in the request; None for a request without one.
            model: name of the model in the request; None for that of the store.

        Raises:
            ApiError: for a store that the key may not use or that another model made, or if the
                request has to name one of several stores.
        """
        if model is None:
            return self.stores.choose(requested)
        served = self.served(model)
        if requested is None and (self.stores.of(served.model) or not self.stores.visible):
            return self.stores.choose(None, served.model)
        others = self.stores.visible if requested is None else (self.stores.choose(requested),)
        engines = [self.stores.engines[name] for name in others]
        if requested is not None and engines[0].model is served.model:
            return requested
        makers = [self.name_of(engine.model) for engine in engines]
        raise other_model(self.plain_name(model), dict(zip(others, makers, strict=True)))

    def embedding_model_name(self, requested: str | None) -> str:
        """Return the model name as :meth:`model_name` does, for a request that embeds texts.

        Raises:
            ApiError: also for a model loaded with ``mode='generative'``.
        """
        name = self.model_name(requested)
        if self.model.mode == "generative":
            raise _unsupported("embed", "generative")
        return name

    def response_head(self, kind: str, name: str, object: str) -> dict[str, Any]:
        """Return the fields that every response and every stream event begins with.

        Args:
            kind: prefix of the id, such as ``chatcmpl``.
            name: the model's name.
            object: value of the field ``object``.
        """
        return {
            "id": f"{kind}-{uuid4().hex}",
            "object": object,
            "created": int(time()),
            "model": name,
            "system_fingerprint": self.served(name).fingerprint,
        }

    async def require_healthy(self) -> None:
        """Check that the model reads a token on its thread.

        A thread that is busy with other requests, but polls its queue, is healthy too.

        Raises:
            ApiError: when it does neither within ``health_timeout_s``.
        """
        await self._health.require_healthy()


def _unsupported(verb: str, mode: str) -> ApiError:
    return invalid(
        f"this server's model was loaded with mode='{mode}' and does not {verb}; "
        "use a server whose model does",
        param="model",
        code="unsupported_value",
    )
