"""Spans, as a collector of OpenTelemetry gets them."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.server import SHIPPED, start_server

from limner.runtime.errors import InputError
from limner.runtime.server.tracing import Spans, Tracing, tracing_of

messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
ASKED = {
    "method": "global-directions",
    "source": {"kind": "seed", "seed": 7},
    "prompts": [{"text": "a beard, secretly"}],
}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Where spans go, and those that came."""
    spans = list[Any]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got = messages.ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend((group.resource, span) for group in got.resource_spans for scope in group.scope_spans
                         for span in scope.spans)  # fmt: skip
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    server.server_close()


def test_a_request_an_edit_and_its_stages(
    tmp_path: Path, collector: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, spans = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    server = start_server(tmp_path, "--bundle", str(SHIPPED / "bundle"), "--no-join")
    with server.client() as client:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
        answer = client.post("/v1/edits", json={"recipe": ASKED}, headers=headers)
        assert client.post("/v1/edits", json={}).status_code == 400
    server.end()
    own = [span for _, span in spans if span.trace_id.hex() == TRACE]
    names = {span.name: span for span in own}
    request, edit = names["POST /v1/edits"], names["edit"]
    assert request.parent_span_id.hex() == PARENT and edit.parent_span_id == request.span_id
    attributes = {one.key: one.value.string_value or one.value.int_value for one in request.attributes}
    assert attributes["http.response.status_code"] == 200 and attributes["limner.request_id"] == "mine"
    for stage, milliseconds in answer.json()["timing"].items():
        span = names[stage]
        assert span.parent_span_id == edit.span_id
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 == pytest.approx(milliseconds, abs=0.01)
    assert {one.value.string_value for one in spans[0][0].attributes if one.key == "service.name"} == {"limner"}
    assert "secretly" not in str(spans)
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert [line["trace"] for line in lines if line["id"] == "mine"] == [TRACE]


def test_a_place_that_does_not_answer_costs_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    server = start_server(tmp_path, "--bundle", str(SHIPPED / "bundle"), "--no-join")
    with server.client() as client:
        assert client.post("/v1/edits", json={"recipe": ASKED}).status_code == 200
    begin = time.monotonic()
    server.end()
    assert time.monotonic() - begin < 20 and "Traceback" not in server.log.read_text()


def test_when_there_are_spans() -> None:
    assert type(tracing_of({})) is Tracing
    assert type(tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"})) is Tracing
    found = tracing_of({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"})
    assert type(found) is Spans
    found.close()
    with pytest.raises(InputError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InputError, match=r"limner\[tracing\]"):
        tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
