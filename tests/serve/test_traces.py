"""Traces: the spans that a collector of OpenTelemetry receives, over HTTP as protobuf."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from gritlm import GritLM
from gritlm.serve import span_export
from gritlm.serve.config import ServerConfig
from gritlm.serve.span_export import open_span_export
from gritlm.serve.stores import StoreAt
from tests.serve.conftest import Served, served

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE_ID}-{PARENT}-01", "tracestate": "vendor=1"}
USER = [{"role": "user", "content": "Hello"}]
CHAT = {"messages": USER, "max_tokens": 4, "temperature": 0, "ignore_eos": True}


class Collector:
    """The requests that a collector has received, parsed."""

    def __init__(self) -> None:
        self.exports: list[Any] = []
        self.paths: list[str] = []

    def spans(self) -> list[Any]:
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resource(self) -> dict[str, Any]:
        return values(self.exports[0].resource_spans[0].resource)


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector on a free port of this machine, and its address."""
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.headers["Content-Type"] == "application/x-protobuf"
            export = trace_service.ExportTraceServiceRequest.FromString(body)
            collector.exports.append(export)
            collector.paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def values(owner: Any) -> dict[str, Any]:
    """Attributes of a span or of its resource as plain values."""
    found = {}
    for pair in owner.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        if kind == "array_value":
            value = [each.string_value for each in value.values]
        found[pair.key] = value
    return found


def found(served: Served, collector: Collector, name: str) -> tuple[Any, list[Any]]:
    """The span of the only request with this name, and its children by their begin."""
    deadline = time.monotonic() + 20
    while True:  # the span ends shortly after the response
        served.service.spans._provider.force_flush()
        roots = [span for span in collector.spans() if span.name == name]
        if roots:
            break
        assert time.monotonic() < deadline, [span.name for span in collector.spans()]
        time.sleep(0.05)
    (root,) = roots
    children = [span for span in collector.spans() if span.parent_span_id == root.span_id]
    return root, sorted(children, key=lambda span: span.start_time_unix_nano)


@pytest.fixture
def traced(
    grit: GritLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Served, Collector]]:
    """A server with a document that sends its spans to a collector."""
    with collecting() as (collector, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
        settings = ServerConfig(port=0, names=("tiny",))
        with served(grit, settings, None, StoreAt(tmp_path / "store", name="law")) as live:
            body = {"documents": [{"id": "a", "text": "A contract needs an offer."}]}
            live.http.post("/v1/rag/documents", json=body).raise_for_status()
            yield live, collector


def test_a_chat_is_a_span_with_queue_prefill_and_decode(traced):
    live, collector = traced
    before = time.time_ns()
    usage = live.http.post("/v1/chat/completions", json=CHAT, headers=HEADERS).json()["usage"]
    root, children = found(live, collector, "POST /v1/chat/completions")
    assert [span.name for span in children] == ["queue", "prefill", "decode"]
    assert root.trace_id.hex() == TRACE_ID
    assert root.parent_span_id.hex() == PARENT
    assert root.trace_state == "vendor=1"
    assert all(span.trace_id == root.trace_id for span in children)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gritlm",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": ["length"],
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    assert values(root).items() >= expected.items()
    assert values(children[1])["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert values(children[2])["gen_ai.usage.output_tokens"] == 4
    times = [root.start_time_unix_nano]
    for span in children:
        assert times[-1] <= span.start_time_unix_nano <= span.end_time_unix_nano
        times.append(span.start_time_unix_nano)
    assert before <= root.start_time_unix_nano + 10**7  # clocks differ by less than 10 ms
    assert children[-1].end_time_unix_nano <= root.end_time_unix_nano <= time.time_ns() + 10**7
    assert root.kind == 2  # server
    assert collector.paths == ["/v1/traces"] * len(collector.paths)
    assert collector.resource()["service.name"] == "gritlm"


def test_a_stream_is_a_span_until_its_end(traced):
    live, collector = traced
    with live.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as reply:
        assert b"[DONE]" in reply.read()
    root, children = found(live, collector, "POST /v1/chat/completions")
    assert [span.name for span in children] == ["queue", "prefill", "decode"]
    assert not root.parent_span_id
    assert root.trace_id.hex() != TRACE_ID
    assert values(root)["gen_ai.usage.output_tokens"] == 4


def test_an_answer_from_documents_has_its_retrieval(traced):
    live, collector = traced
    body = {"question": "What does it need?", "max_tokens": 3, "ignore_eos": True}
    usage = live.http.post("/v1/rag/answer", json=body).json()["usage"]
    root, children = found(live, collector, "POST /v1/rag/answer")
    assert [span.name for span in children] == ["retrieval", "queue", "prefill", "decode"]
    about = values(children[0])
    assert about == {"gen_ai.data_source.id": "law", "gritlm.passages": 1}
    assert values(root)["gen_ai.data_source.id"] == "law"
    assert values(root)["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 3
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert values(children[2])["gen_ai.usage.cache_read.input_tokens"] == cached > 0


def test_embeddings_and_searches_are_spans(traced):
    live, collector = traced
    body = {"input": ["one", "two"], "model": "tiny"}
    usage = live.http.post("/v1/embeddings", json=body).json()["usage"]
    root, children = found(live, collector, "POST /v1/embeddings")
    assert [span.name for span in children] == ["queue", "embed"]
    assert values(root)["gen_ai.operation.name"] == "embeddings"
    assert values(root)["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    live.http.post("/v1/rag/search", json={"question": "An offer?"}).raise_for_status()
    root, children = found(live, collector, "POST /v1/rag/search")
    assert [span.name for span in children] == ["retrieval"]
    assert values(root)["gen_ai.operation.name"] == "retrieval"


def test_refused_requests_are_spans_without_content(traced):
    live, collector = traced
    live.http.delete("/v1/rag/documents/secret-name")
    root, children = found(live, collector, "DELETE /v1/rag/documents/{document_id}")
    assert values(root)["http.response.status_code"] == 404
    assert root.status.code == 0  # not the server's fault
    assert not children
    live.http.post("/v1/chat/completions", json={**CHAT, "secret": "secret"})
    live.http.get("/health")
    live.http.get("/metrics")
    found(live, collector, "POST /v1/chat/completions")
    sent = b"".join(export.SerializeToString() for export in collector.exports)
    assert b"secret" not in sent
    assert b"Hello" not in sent
    names = {span.name for span in collector.spans()}
    assert not {"GET /health", "GET /metrics"} & names


def test_a_pipelined_request_has_a_span_of_its_own(traced):
    live, collector = traced
    host = live.url.removeprefix("http://")
    requests = [f"GET {path} HTTP/1.1\r\nHost: {host}\r\n" for path in ("/v1/models", "/health")]
    with socket.create_connection(("127.0.0.1", int(host.partition(":")[2]))) as connection:
        connection.sendall(f"{requests[0]}\r\n{requests[1]}Connection: close\r\n\r\n".encode())
        received = b""
        while piece := connection.recv(2**16):
            received += piece
    assert received.count(b"HTTP/1.1 200") == 2
    found(live, collector, "GET /v1/models")
    assert [span.name for span in collector.spans()].count("GET /v1/models") == 1


def test_spans_of_the_last_requests_are_sent_at_the_end(grit: GritLM, monkeypatch):
    with collecting() as (collector, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-server")
        with served(grit, ServerConfig(port=0)) as live:
            live.http.get("/v1/models").raise_for_status()
        assert [span.name for span in collector.spans()] == ["GET /v1/models"]
        assert collector.resource()["service.name"] == "my-server"


def test_a_collector_that_is_gone_delays_nothing_for_long(grit: GritLM, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with served(grit, ServerConfig(port=0)) as live:
        started = time.monotonic()
        live.http.get("/v1/models").raise_for_status()
        assert time.monotonic() - started < 5
        ended = time.monotonic()
    assert time.monotonic() - ended < 15


@pytest.mark.parametrize(
    ("environment", "warning"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, ""),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc; expected http/protobuf, requests are not traced",
        ),
    ],
)
def test_traces_are_off(environment, warning, caplog: pytest.LogCaptureFixture):
    assert open_span_export(environment) is None
    assert [record.getMessage() for record in caplog.records] == ([warning] if warning else [])


def test_without_the_packages_one_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert open_span_export({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}) is None
    (record,) = caplog.records
    assert span_export.install_hint("otel") in record.getMessage()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in record.getMessage()


def test_nothing_of_the_sdk_is_imported_without_an_endpoint():
    code = (  # FastAPI imports the API of OpenTelemetry where it is installed
        "import sys, gritlm.serve.app\n"
        "from gritlm.serve.span_export import open_span_export\n"
        "assert open_span_export({}) is None\n"
        "own = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.proto')\n"
        "print([name for name in sys.modules if name.startswith(own)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
