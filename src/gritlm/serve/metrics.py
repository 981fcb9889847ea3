"""Prometheus metrics. Names are vLLM's behind ``gritlm_``; its colon is kept for recording rules.

Nothing of a request is a label but the path of its route, so their number is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gritlm.serve.engine.scheduler import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5)


class Metrics:
    """What is counted while requests are answered.

    Args:
        stats: of the scheduler, asked for whenever somebody scrapes.
    """

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "Requests by status.", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts and texts.")
        self.cached_tokens = self._counter(
            "prompt_tokens_cached", "Of these, tokens whose keys and values were there already."
        )
        self.generation_tokens = self._counter("generation_tokens", "Tokens that were written.")
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", _SECONDS
        )
        self.between_tokens = self._histogram(
            "inter_token_latency_seconds", "From a token to the next.", _STEPS
        )
        self.whole = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the end of the answer.", _SECONDS
        )
        self.queue_time = self._histogram(
            "request_queue_time_seconds", "From arrival until the model began with it.", _SECONDS
        )
        self._registry.register(_Gauges(stats))

    def exposition(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"gritlm_{name}", about, ("endpoint", *labels), registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"gritlm_{name}", about, ("endpoint",), buckets=buckets, registry=self._registry
        )


class _Gauges(Collector):
    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        stats = self._stats()
        for name, about, value in (
            ("num_requests_running", "Requests that the model works on.", stats.running),
            ("num_requests_waiting", "Requests that wait for it.", stats.waiting),
            ("kv_cache_usage_perc", "Part of the slots' tokens in use, 0 to 1.", _share(stats)),
        ):
            yield GaugeMetricFamily(f"gritlm_{name}", about, value=value)


def _share(stats: EngineStats) -> float:
    return stats.kv_used / stats.kv_held if stats.kv_held else 0.0
