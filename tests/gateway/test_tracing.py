from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.gateway.kit import HARMFUL, Upstream, gateway
from vlmguard.gateway import tracing


class Collector(HTTPServer):
    """Takes spans as OpenTelemetry's collector does: OTLP over HTTP, protobuf."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> dict[str, Span]:
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    tracing.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_reach_a_collector_nested_and_on_the_clients_trace(collector: Collector) -> None:
    tracing.configure()
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    with tracing.request_span("request", headers, route="/v1/messages"):
        with tracing.span("guard", tier="embedded", turns=3):
            pass
        with tracing.span("upstream") as upstream:
            upstream.set_attribute("status", 200)
            sent = tracing.outgoing_headers()
    tracing.close()
    spans = collector.spans
    assert set(spans) == {"request", "guard", "upstream"}
    assert {span.trace_id.hex() for span in spans.values()} == {trace}
    assert spans["request"].parent_span_id.hex() == parent
    assert spans["request"].kind == Span.SPAN_KIND_SERVER
    assert spans["guard"].parent_span_id == spans["request"].span_id
    assert {item.key for item in spans["guard"].attributes} == {"tier", "turns"}
    assert sent["traceparent"] == f"00-{trace}-{spans['upstream'].span_id.hex()}-01"
    (resource,) = {item.value.string_value for item in collector.requests[0].resource_spans[0].resource.attributes} & {
        "vlmguard"
    }
    assert resource == "vlmguard"


def test_of_an_error_a_span_tells_the_type_and_not_the_message(collector: Collector) -> None:
    tracing.configure()
    with pytest.raises(ValueError, match="user"), tracing.span("guard"):
        raise ValueError("what the user said")
    tracing.close()
    guard = collector.spans["guard"]
    assert guard.status.code == Status.STATUS_CODE_ERROR
    assert guard.status.message == "ValueError"
    assert b"what the user said" not in collector.requests[0].SerializeToString()


def test_spans_that_are_off_cost_nothing_and_send_nothing(collector: Collector) -> None:
    with tracing.span("guard", tier="embedded") as nothing, tracing.request_span("request", {}) as neither:
        assert nothing is None
        assert neither is None
    assert tracing.span("a") is tracing.span("b")
    assert tracing.outgoing_headers() == {}
    assert collector.requests == []


def test_without_the_extra_spans_are_a_no_op_and_turning_them_on_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not installed')")
    script = """
from vlmguard.gateway import tracing
with tracing.span("guard", a=1) as nothing:
    assert nothing is None
try:
    tracing.configure()
except tracing.MissingExtraError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert said.stdout == "tracing needs more packages: pip install 'vlmguard[otel]'\n"


def test_a_request_is_one_trace_from_the_client_to_the_upstream(tmp_path: Path, collector: Collector) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with Upstream().running() as upstream, gateway(tmp_path, upstream.url, tracing="true") as running:
        answer = running.chat(HARMFUL, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        assert answer.status_code == 200
    spans = collector.spans
    assert {"request", "read", "guard", "write"} <= spans.keys()
    assert {span.trace_id.hex() for span in spans.values()} == {trace}
    assert (upstream.last.header("traceparent") or "").split("-")[1:3] == [trace, spans["request"].span_id.hex()]
    assert HARMFUL not in str(collector.requests)
