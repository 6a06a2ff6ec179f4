"""OpenTelemetry spans (extra ``otel``), sent by OTLP over HTTP. A no-op until ``configure`` is called, and without the extra.

Where spans go, and the service's name, say OpenTelemetry's own variables: ``OTEL_EXPORTER_OTLP_ENDPOINT``,
``OTEL_SERVICE_NAME``, … A span holds names, numbers and hashes, never what a user or a model said; of an error its type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from vlmguard import __version__
from vlmguard.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Attribute = str | int | float | bool

_NOTHING: AbstractContextManager[None] = nullcontext()
_provider: TracerProvider | None = None


def configure() -> None:
    """Turns spans on for this process. Raises ``MissingExtraError`` without the extra ``otel``."""
    global _provider  # noqa: PLW0603 - spans are the process's own, as its logs are
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError("tracing", "otel") from error
    close()
    ours = Resource({SERVICE_NAME: "vlmguard", SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _provider = provider


def close() -> None:
    """Sends what is left, and turns spans off. Blocks for as long as the exporter takes (``OTEL_EXPORTER_OTLP_TIMEOUT``)."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        provider.shutdown()


def span(name: str, **attributes: Attribute) -> AbstractContextManager[Any]:
    """A span around a piece of work, inside the span that is open. Yields it (``None`` when spans are off)."""
    return _NOTHING if _provider is None else _span(name, attributes, None)


def request_span(name: str, headers: Mapping[str, str], **attributes: Attribute) -> AbstractContextManager[Any]:
    """The span of a request: it goes on the trace that the client's ``traceparent`` header names."""
    return _NOTHING if _provider is None else _span(name, attributes, headers)


def outgoing_headers() -> dict[str, str]:
    """``traceparent`` and ``tracestate`` for a request made inside the open span; empty when spans are off."""
    if _provider is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


@contextmanager
def _span(name: str, attributes: Mapping[str, Attribute], headers: Mapping[str, str] | None) -> Iterator[Any]:
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    assert _provider is not None
    parent = None if headers is None else TraceContextTextMapPropagator().extract(dict(headers))
    with _provider.get_tracer("vlmguard", __version__).start_as_current_span(
        name,
        context=parent,
        kind=SpanKind.INTERNAL if headers is None else SpanKind.SERVER,
        attributes=dict(attributes),
        record_exception=False,  # its message may quote the request
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            opened.set_attribute("error.type", type(error).__name__)
            raise
