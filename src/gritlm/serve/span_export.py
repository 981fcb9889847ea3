"""Export of requests as OpenTelemetry spans, over OTLP, when the environment names an endpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gritlm import __version__
from gritlm.distribution import install_hint
from gritlm.serve.request_trace import RequestTrace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_NAME = "OTEL_SERVICE_NAME"
_FLUSH_MS = 3000  # for the last spans at shutdown
_SERVER_ERROR = 500


class SpanExport:
    """Spans of ended requests, sent in batches by a thread of the SDK.

    Args:
        provider: the provider of OpenTelemetry's SDK.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("gritlm", __version__)

    def add(self, trace: RequestTrace, status: int, end: float) -> None:
        """Add the span of a request, with a child for each of its stages.

        Args:
            trace: the trace of the request.
            status: HTTP status of the response.
            end: end of the response, as of ``time.monotonic``.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        span = self._tracer.start_span(
            trace.name,
            TraceContextTextMapPropagator().extract(trace.parent),
            kind=SpanKind.SERVER,
            attributes={**trace.attributes, "http.response.status_code": status},
            start_time=trace.nanoseconds(trace.start),
        )
        if status >= _SERVER_ERROR:
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        context = set_span_in_context(span)
        for stage in trace.stages:
            child = self._tracer.start_span(
                stage.name,
                context,
                attributes=stage.attributes,
                start_time=trace.nanoseconds(stage.start),
            )
            child.end(trace.nanoseconds(stage.end))
        span.end(trace.nanoseconds(end))

    def close(self) -> None:
        """Send the last spans, if the collector takes them within some seconds."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()


def open_span_export(environment: Mapping[str, str]) -> SpanExport | None:
    """Return the export of spans if the environment asks for one.

    OpenTelemetry is imported only then. Without its packages, or for a protocol that they do not
    have, a warning is logged and requests are not traced.

    Args:
        environment: the environment variables, whose names are those of OpenTelemetry's SDK.
    """
    if not _is_wanted(environment):
        return None
    try:
        return SpanExport(_provider(environment))
    except ImportError as error:
        log.warning(
            "requests are not traced, because %s, which OTEL_EXPORTER_OTLP_ENDPOINT needs, is not "
            "installed; %s",
            error.name,
            install_hint("otel"),
        )
    return None


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if not any(environment.get(name, "").strip() for name in ENDPOINTS):
        return False
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=%s; expected %s, requests are not traced",
            protocol[:40],
            _PROTOCOL,
        )
    return protocol == _PROTOCOL


def _provider(environment: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about: dict[str, Any] = {"service.version": __version__, "process.pid": os.getpid()}
    if not environment.get(_NAME) and "service.name=" not in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        about["service.name"] = "gritlm"
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
