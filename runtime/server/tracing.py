"""Spans for OpenTelemetry, where its environment variables name a place for them: limner[tracing].

OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) turns them on. A request is a span, a child of the caller's where
it says `traceparent`; an edit is one below it, and its stages are below that. No text and no picture is in them.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.versions import package_version

__all__ = ["Tracing", "tracing_of"]

PLACES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


Answered = Callable[[int], str]


class Tracing:
    """No spans; what a server without OpenTelemetry has."""

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str], name: str) -> Iterator[Answered]:
        """A request; what is yielded takes the status and gives the trace's id."""
        yield lambda status: ""

    @contextmanager
    def edit(self, model: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
        """An edit; what is yielded takes the milliseconds of its stages."""
        yield lambda stages: None

    def close(self) -> None:
        """Send what is left."""


class Spans(Tracing):
    """Spans that are sent."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.propagate import extract
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind

        own = {SERVICE_VERSION: package_version("limner") or "0"}
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "limner"}
        self._provider = TracerProvider(resource=Resource.create(own | named))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("limner.server")
        self._extract: Callable[..., Any] = extract
        self._server = SpanKind.SERVER

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str], name: str) -> Iterator[Answered]:
        attributes = {"http.request.method": method, "url.path": path, "limner.request_id": name}
        parent = self._extract(dict(headers))
        with self._tracer.start_as_current_span(f"{method} {path}", parent, self._server, attributes) as span:

            def answered(status: int) -> str:
                span.set_attribute("http.response.status_code", status)
                return f"{span.get_span_context().trace_id:032x}"

            yield answered

    @contextmanager
    def edit(self, model: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
        begin = time.time_ns()
        with self._tracer.start_as_current_span("edit", attributes={"limner.model": model}):

            def done(stages: Mapping[str, float]) -> None:
                at = begin
                for name, milliseconds in stages.items():  # one after another
                    span = self._tracer.start_span(name, start_time=at)
                    at += int(1e6 * milliseconds)
                    span.end(at)

            yield done

    def close(self) -> None:
        self._provider.shutdown()


def tracing_of(environment: Mapping[str, str]) -> Tracing:
    """Spans where the environment names a place for them; InputError where what sends them is not installed."""
    place = next((environment[name] for name in PLACES if environment.get(name)), "")
    if not place or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Tracing()
    if not place.startswith(("http://", "https://")):
        raise InputError("OTEL_EXPORTER_OTLP_ENDPOINT", repr(place), "http://... or https://...")
    try:
        return Spans()
    except ModuleNotFoundError as reason:
        given, allowed = f"{place!r} without {reason.name}", "nothing, or pip install 'limner[tracing]'"
        raise InputError("OTEL_EXPORTER_OTLP_ENDPOINT", given, allowed) from reason
