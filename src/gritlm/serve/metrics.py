"""Prometheus metrics, with vLLM's names behind the prefix ``gritlm_``.

The prefix ends with an underscore instead of vLLM's colon, which Prometheus reserves for recording
rules. The only labels are the route's path, the status and the name of a store, so the number of
series is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gritlm.serve.engine.scheduler import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5)


class Metrics:
    """Counters and histograms of requests, and gauges of the engine.

    Args:
        stats: returns the figures of the engine; called at every scrape.
        token_bytes: bytes of the keys and values of a token.
    """

    def __init__(self, stats: Callable[[], EngineStats], token_bytes: int = 0) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "HTTP requests by status.", "status")
        self.prompt_tokens = self._counter(
            "prompt_tokens", "Prefill tokens: prompts and texts to embed."
        )
        self.cached_tokens = self._counter(
            "prompt_tokens_cached", "Prompt tokens whose keys and values were cached."
        )
        self.generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Seconds from arrival to the first token.", _SECONDS
        )
        self.between_tokens = self._histogram(
            "inter_token_latency_seconds", "Seconds from a token to the next.", _STEPS
        )
        self.request_seconds = self._histogram(
            "e2e_request_latency_seconds",
            "Seconds from arrival to the end of the response.",
            _SECONDS,
        )
        self.queue_time = self._histogram(
            "request_queue_time_seconds", "Seconds from arrival until the model began.", _SECONDS
        )
        self.store_requests = self._counter(
            "rag_requests", "Searches, answers and additions of documents, by store.", "store"
        )
        self.store_documents = Counter(
            "gritlm_rag_documents_added",
            "Documents that were added or replaced, by store.",
            ("store",),
            registry=self._registry,
        )
        self._registry.register(_Gauges(stats, token_bytes))

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"gritlm_{name}", help_text, ("endpoint", *labels), registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"gritlm_{name}", help_text, ("endpoint",), buckets=buckets, registry=self._registry
        )


class _Gauges(Collector):
    """Gauges and counters that are read from the engine at every scrape."""

    def __init__(self, stats: Callable[[], EngineStats], token_bytes: int) -> None:
        self._stats = stats
        self._token_bytes = token_bytes

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        stats = self._stats()
        for name, help_text, value in (
            ("num_requests_running", "Requests that the model runs.", stats.running),
            ("num_requests_waiting", "Requests that wait for the model.", stats.waiting),
            (
                "kv_cache_usage_perc",
                "Fraction of the KV slots' tokens in use, 0 to 1.",
                _kv_usage(stats),
            ),
            (
                "kv_cache_bytes",
                "Bytes of the KV slots when all are full.",
                self._token_bytes * stats.kv_held,
            ),
        ):
            yield GaugeMetricFamily(f"gritlm_{name}", help_text, value=value)
        for name, help_text, value in (
            ("draft", "Tokens that were drafted from earlier text.", stats.drafted),
            ("accepted", "Drafted tokens that were right.", stats.accepted),
        ):
            yield CounterMetricFamily(
                f"gritlm_spec_decode_num_{name}_tokens", help_text, value=value
            )


def _kv_usage(stats: EngineStats) -> float:
    return stats.kv_used / stats.kv_held if stats.kv_held else 0.0
