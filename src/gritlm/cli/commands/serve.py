"""``gritlm serve``: the HTTP server for chats, embeddings, reranking and cached RAG."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gritlm import __version__
from gritlm.cli import logs
from gritlm.cli.adapters import split_adapters
from gritlm.cli.cluster import ClusterOptions, model_source
from gritlm.cli.environment import lines, option, require_values
from gritlm.cli.options import (
    MODEL,
    SHARED_BLOCKS,
    Dtype,
    ModelOptions,
    PlacementOptions,
    Reader,
    connect_blocks,
)
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm import GritLM
    from gritlm.scale.serving import ModelSource
    from gritlm.serve.config import ServerConfig
    from gritlm.serve.engine.limits import Limits
    from gritlm.serve.service import Service
    from gritlm.serve.stores import StoreAt

LISTENING = "Listening"
LIMITS = "Limits"
STORE = "Documents"
MEGABYTE = 2**20


class LogFormat(StrEnum):
    """Format of the log lines."""

    text = "text"
    json = "json"


class RankingOption(StrEnum):
    """Method of rerank requests."""

    embed = "embed"
    generate = "generate"
    likelihood = "likelihood"


@dataclass(frozen=True)
class ListenOptions:
    """Address of the server and access to it."""

    host: Annotated[
        str,
        option(env="HOST", help="Address to listen on; 0.0.0.0: all interfaces.", panel=LISTENING),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        option(env="PORT", help="Port; 0: any free one.", panel=LISTENING, min=0, max=65535),
    ] = 8000
    api_key: Annotated[
        list[str] | None,
        option(
            env="API_KEY",
            panel=LISTENING,
            callback=lines,
            help="API key that clients must send; may be repeated, one per line in the variable. "
            "Prefer the variable: arguments are visible to other users of the machine.",
        ),
    ] = None
    key_file: Annotated[
        Path | None,
        option(
            env="KEY_FILE",
            panel=LISTENING,
            help="TOML or JSON-lines file with API keys, and the stores and rights of each; read "
            "again when it changes.",
        ),
    ] = None
    served_model_name: Annotated[
        list[str] | None,
        option(
            env="SERVED_MODEL_NAME",
            panel=LISTENING,
            callback=lines,
            help="Model name in the API; may be repeated, one per line in the variable.",
        ),
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        option(
            env="ALLOWED_HOST",
            panel=LISTENING,
            help="Allowed Host header; may be repeated. Default: any, except on loopback.",
        ),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        option(
            env="CORS_ORIGIN",
            panel=LISTENING,
            help="Web origin allowed by CORS; may be repeated.",
        ),
    ] = None
    open_metrics: Annotated[
        bool,
        option(
            "--open-metrics",
            env="OPEN_METRICS",
            help="Serve /metrics without an API key.",
            panel=LISTENING,
        ),
    ] = False
    allow_token_ids: Annotated[
        bool,
        option(
            "--allow-token-ids",
            env="ALLOW_TOKEN_IDS",
            panel=LISTENING,
            help="Accept token ids of this model's tokenizer as input of embeddings.",
        ),
    ] = False
    allow_media_urls: Annotated[
        bool,
        option(
            "--allow-media-urls",
            env="ALLOW_MEDIA_URLS",
            panel=LISTENING,
            help="Fetch images and sounds that requests name by http and https addresses; private "
            "networks and redirects are refused. Default: data: URLs alone.",
        ),
    ] = False
    rerank: Annotated[
        RankingOption | None,
        option(
            env="RERANK",
            panel=LISTENING,
            help="Method of rerank requests that name none. Default: likelihood of a model with a "
            "calibration, embed (the cosine) of others.",
        ),
    ] = None
    strict: Annotated[
        bool,
        option(
            "--strict",
            env="STRICT",
            panel=LISTENING,
            help="Refuse unknown fields of requests, instead of ignoring them and naming them in "
            "the header x-gritlm-ignored.",
        ),
    ] = False
    log_format: Annotated[
        LogFormat,
        option(env="LOG_FORMAT", help="Log lines as plain text or JSON.", panel=LISTENING),
    ] = LogFormat.text


@dataclass(frozen=True)
class LimitOptions:
    """Limits of concurrency, memory and request size."""

    max_model_len: Annotated[
        int | None,
        option(
            env="MAX_MODEL_LEN",
            panel=LIMITS,
            min=8,
            help="Maximum tokens of prompt and answer. Default: what model and memory allow.",
        ),
    ] = None
    max_num_seqs: Annotated[
        int,
        option(
            env="MAX_NUM_SEQS",
            help="Maximum number of sequences generated concurrently.",
            panel=LIMITS,
            min=1,
        ),
    ] = 8
    max_num_batched_tokens: Annotated[
        int | None,
        option(
            env="MAX_NUM_BATCHED_TOKENS",
            panel=LIMITS,
            min=1,
            help="Maximum tokens of texts or prompts processed between two decoding steps.",
        ),
    ] = None
    max_waiting: Annotated[
        int,
        option(
            env="MAX_WAITING",
            help="Maximum number of waiting requests; further ones are refused.",
            panel=LIMITS,
            min=1,
        ),
    ] = 256
    max_request_tokens: Annotated[
        int,
        option(
            env="MAX_REQUEST_TOKENS",
            panel=LIMITS,
            min=1,
            help="Maximum tokens of all texts of a request; a longer one is refused.",
        ),
    ] = 300_000
    max_body_mb: Annotated[
        float,
        option(
            env="MAX_BODY_MB",
            help="Maximum size of a request body, in MiB.",
            panel=LIMITS,
            min=0.001,
        ),
    ] = 8.0
    max_media_pixels: Annotated[
        int,
        option(
            env="MAX_MEDIA_PIXELS",
            help="Maximum number of pixels of an image.",
            panel=LIMITS,
            min=1,
        ),
    ] = 25_000_000
    max_media_seconds: Annotated[
        float,
        option(
            env="MAX_MEDIA_SECONDS",
            help="Maximum length of a sound, in seconds.",
            panel=LIMITS,
            min=0.1,
        ),
    ] = 600.0
    max_media_items: Annotated[
        int,
        option(
            env="MAX_MEDIA_ITEMS",
            help="Maximum number of images and sounds of a request.",
            panel=LIMITS,
            min=1,
        ),
    ] = 32
    max_connections: Annotated[
        int,
        option(
            env="MAX_CONNECTIONS",
            panel=LIMITS,
            min=1,
            help="Maximum number of open connections; further ones are refused.",
        ),
    ] = 512
    drain_seconds: Annotated[
        float,
        option(
            env="DRAIN_SECONDS",
            panel=LIMITS,
            min=0.0,
            help="Seconds that running requests have to finish after SIGTERM.",
        ),
    ] = 30.0

    def limits(self) -> Limits:
        from gritlm.serve.engine.limits import Limits

        return Limits(
            max_num_seqs=self.max_num_seqs,
            max_model_len=self.max_model_len,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_waiting=self.max_waiting,
            max_request_tokens=self.max_request_tokens,
        )


@dataclass(frozen=True)
class StoreOptions:
    """Document stores of the server."""

    store: Annotated[
        list[str] | None,
        option(
            env="STORE",
            panel=STORE,
            callback=lines,
            metavar="[NAME=]FOLDER",
            help="Folder of a document store, as gritlm index creates it; created if missing. May "
            "be repeated with a name for each; one per line in the variable.",
        ),
    ] = None
    store_read_only: Annotated[
        bool,
        option(
            "--store-read-only",
            env="STORE_READ_ONLY",
            panel=STORE,
            help="Open the stores read-only; any number of servers may share them.",
        ),
    ] = False
    index: Annotated[
        str | None,
        option(
            env="INDEX",
            panel=STORE,
            metavar="URI",
            help="New store: database of the passages, as gritlm index --index takes it. Only with "
            "one --store.",
        ),
    ] = None
    shared_blocks: Annotated[
        str | None,
        option(env="SHARED_BLOCKS", panel=STORE, metavar="URI", help=SHARED_BLOCKS),
    ] = None

    reader: Annotated[
        Reader,
        option(
            env="READER",
            panel=STORE,
            help="docling: uploaded PDF files, scans and images by docling, with layout and text "
            "recognition; slow. pages: pages of PDF files as images, for a model that reads "
            "images; pages-and-text: their text too.",
        ),
    ] = Reader.standard

    @property
    def blocks_address(self) -> str | None:
        """Address of shared blocks for other machines: a folder with its whole path."""
        if self.shared_blocks is None or "://" in self.shared_blocks:
            return self.shared_blocks
        return str(Path(self.shared_blocks).expanduser().absolute())

    def places(self) -> list[StoreAt]:
        from gritlm.serve.stores import StoreAt, require_distinct

        read_only = self.store_read_only
        stores = [StoreAt.parse(each, read_only=read_only) for each in self.store or ()]
        if self.index is not None:
            if len(stores) != 1:
                raise InputError(
                    f"--index {self.index} needs one --store, not {len(stores)}; make each store "
                    "with gritlm index --index"
                )
            stores = [replace(stores[0], index=self.index)]
        require_distinct(stores)
        shared = connect_blocks(self.shared_blocks)
        if self.reader != Reader.standard:
            from gritlm.rag.ingest.file_reader import require_reader

            require_reader(self.reader.value)
        return [replace(store, shared_blocks=shared) for store in stores]


@dataclass(frozen=True)
class ServedModelOptions(PlacementOptions):
    """Adapter, device and data type of the model."""

    adapter: Annotated[
        list[str] | None,
        option(
            env="ADAPTER",
            metavar="[NAME=]FOLDER",
            callback=lines,
            panel=MODEL,
            help="Folder or hub id of a LoRA adapter. With NAME= it is a model of that name next "
            "to the others, over one base in memory; may be repeated, one per line in the "
            "variable.",
        ),
    ] = None
    embed_adapter: Annotated[
        str | None,
        option(
            env="EMBED_ADAPTER",
            help="Folder or hub id of a LoRA adapter that embeds only: answers are those without "
            "it.",
            panel=MODEL,
        ),
    ] = None
    device: Annotated[
        str | None,
        option(env="DEVICE", help="cpu, cuda, cuda:1 or mps. Default: the best.", panel=MODEL),
    ] = None
    dtype: Annotated[
        Dtype | None,
        option(env="DTYPE", help="auto: as stored. Default: the fastest here.", panel=MODEL),
    ] = None
    threads: Annotated[
        int | None, option(env="THREADS", help="Number of CPU threads.", panel=MODEL, min=1)
    ] = None


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            envvar="GRITLM_MODEL",
            show_envvar=True,
            help="Folder or hub id of the model. Default: the default model.",
        ),
    ] = None,
    *,
    listen: ListenOptions,
    limits: LimitOptions,
    documents: StoreOptions,
    how: ServedModelOptions,
    cluster: ClusterOptions,
) -> None:
    """Serve a model over HTTP: chats, embeddings, reranking and cached RAG.

    The API is compatible with OpenAI clients. SIGTERM or ctrl-C finishes the running requests and
    exits; a second signal exits immediately.
    """
    from gritlm.serve import needs

    needs.require()
    how.require_one_process()
    cluster.require_ray()
    require_values(os.environ)
    from gritlm.runtime import bound_kernel_caches, in_a_thread_of_its_own
    from gritlm.serve import server
    from gritlm.serve.http import logging as server_logs
    from gritlm.serve.key_file import read_keys

    bound_kernel_caches()
    settings = replace(_settings(model, listen, limits), reader=documents.reader.value)
    adapter, named = split_adapters(how.adapter or [])
    wanted = limits.limits()
    stores = documents.places()
    if settings.key_file is not None:  # a wrong file is reported before the model is loaded
        read_keys(settings.key_file, [store.name for store in stores])
    options = ModelOptions(model=model, **{**asdict(how), "adapter": adapter})
    if cluster.ray:
        source = model_source(options, named, limits.max_model_len)
        _serve_on_cluster(
            cluster, source, settings, wanted, documents, how.threads, listen.log_format
        )
        return
    with server.bind(settings) as sock:
        loaded = in_a_thread_of_its_own(lambda: options.load(adapters=named))
        level = logging.getLogger(logs.NAME).level
        server_logs.configure(
            json=listen.log_format is LogFormat.json,
            level=logging.INFO if level == logging.WARNING else level,
        )
        ended = server.serve(loaded, sock, settings, wanted, stores=stores, on_listening=_tell)
    if not ended:
        _leave()


def _serve_on_cluster(
    cluster: ClusterOptions,
    source: ModelSource,
    settings: ServerConfig,
    limits: Limits,
    documents: StoreOptions,
    threads: int | None,
    log_format: LogFormat,
) -> None:
    """Serve in replicas on a Ray cluster."""
    from gritlm.scale.serving import ServingConfig
    from gritlm.scale.serving.run import serve as run

    stores = documents.places()
    if documents.index is not None:
        raise InputError("--index does not go with --ray; make the store with gritlm index --index")
    key_file = settings.key_file
    config = ServingConfig(
        model=source,
        server=replace(settings, key_file=None if key_file is None else key_file.resolve()),
        limits=limits,
        stores=tuple(f"{store.name}={store.folder.resolve()}" for store in stores),
        store_read_only=documents.store_read_only,
        shared_blocks=documents.blocks_address,
        replicas=cluster.scaling(threads),
        log_format=log_format.value,
    )
    names = ", ".join(settings.names)
    count = config.replicas.least
    run(
        config,
        address=cluster.address,
        on_listening=lambda url: logs.note(
            f"gritlm {__version__} serves {names} at {url}\nreplicas: {count}"
        ),
    )


def _leave() -> None:
    """End the process while the engine loop still runs.

    The normal exit of the interpreter would crash under the running thread.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _settings(model: str | None, listen: ListenOptions, limits: LimitOptions) -> ServerConfig:
    from gritlm.serve.config import ServerConfig

    return ServerConfig(
        host=listen.host,
        port=listen.port,
        api_keys=tuple(listen.api_key or ()),
        key_file=listen.key_file,
        names=tuple(listen.served_model_name or [_name(model)]),
        allowed_hosts=tuple(listen.allowed_host or ()),
        cors_origins=tuple(listen.cors_origin or ()),
        open_metrics=listen.open_metrics,
        allow_token_ids=listen.allow_token_ids,
        rerank=None if listen.rerank is None else listen.rerank.value,
        strict=listen.strict,
        max_body_bytes=int(limits.max_body_mb * MEGABYTE),
        drain_s=limits.drain_seconds,
        max_connections=limits.max_connections,
        allow_media_urls=listen.allow_media_urls,
        max_media_pixels=limits.max_media_pixels,
        max_media_seconds=limits.max_media_seconds,
        max_media_items=limits.max_media_items,
    )


def _name(model: str | None) -> str:
    """Return the default model name in the API: the hub id, or the name of the folder."""
    from gritlm.lm.hub import default_model

    if model in (None, default_model.DEFAULT, default_model.SENSES):
        return "gritlm"
    assert model is not None
    return Path(model).resolve().name if Path(model).is_dir() else model


def _quantized(model: GritLM) -> str:
    return "" if model.quantization is None else f", {model.quantization} weights"


def _tell(service: Service, where: str) -> None:
    settings = service.settings
    model = service.model
    scheduler = service.scheduler
    stats = scheduler.stats()
    names = ", ".join(service.stores.names)
    store = f"documents: {names}" if names else "no documents (--store FOLDER)"
    logs.note(
        f"gritlm {__version__} serves {', '.join(service.models)} at {where}\n"
        f"model: {model.source}, {str(model.dtype).removeprefix('torch.')} on {model.device} "
        f"({model.dtype_reason}){_quantized(model)}, "
        f"{model.num_parameters() / 1e6:.0f} million parameters\n"
        f"limits: {stats.slots} concurrent sequences of {scheduler.max_model_len} tokens, "
        f"{service.budget} tokens processed between two decoding steps, request bodies of "
        f"{settings.max_body_bytes / MEGABYTE:g} MiB\n"
        f"{store}; {'a key is needed' if settings.needs_key else 'no key is needed'}"
    )
    if not settings.is_local and not settings.needs_key:
        logs.write_message(
            "warning",
            f"{settings.host} can be reached from other machines and no API key is required: "
            "set GRITLM_API_KEY, or put a proxy with authentication in front",
        )
