"""Spans for OpenTelemetry: ``pip install 'reliq[otel]'``, then ``reliq.telemetry.otel.instrument()``.

A put is a PRODUCER span, and each delivery to a handler a CONSUMER span below it, in whichever process: the
message carries the put's trace id (``t``) and, of its traceparent, the span and the flags (``s``). Attributes are
those of the semantic conventions for messaging.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)
from opentelemetry.trace.propagation import set_span_in_context

from reliq import context, hooks
from reliq.core.message import Message
from reliq.core.verdict import describe
from reliq.errors import Bury, Release
from reliq.identity import process

_SYSTEM: Final = "reliq"


class _Instrument:
    """What is switched on: where spans go, and what is to be done first in each process."""

    def __init__(self, provider: trace.TracerProvider | None, setup: Callable[[], Any] | None) -> None:
        self._provider = provider
        self._setup = setup
        self._process: object = None
        self._tracer: Tracer | None = None

    @property
    def tracer(self) -> Tracer:
        """That of this process: a forked child sets up exporters of its own."""
        if self._tracer is None or self._process is not process():
            self._process = process()
            end = None if self._setup is None else self._setup()
            if callable(end):
                hooks.at_end(end)
            self._tracer = trace.get_tracer(_SYSTEM, tracer_provider=self._provider)
        return self._tracer

    # -- puts ---------------------------------------------------------------------------------------------

    @contextmanager
    def _putting(self, queue: Any, operation: str) -> Iterator[Span]:
        name = queue.name
        attributes = {**_about(name), "messaging.operation.name": operation, "messaging.operation.type": "send"}
        with self.tracer.start_as_current_span(
            f"{operation} {name}", kind=SpanKind.PRODUCER, attributes=attributes
        ) as span:
            of = span.get_span_context()
            if not of.is_valid:  # nobody collects spans, and there is no trace that could be carried on
                yield span
                return
            with context.tracing(f"{of.trace_id:032x}", f"{of.span_id:016x}-{int(of.trace_flags):02x}"):
                yield span

    def put(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Around Queue.put."""

        @wraps(method)
        def put(queue: Any, body: Any, **options: Any) -> Any:
            with self._putting(queue, "put") as span:
                receipt = method(queue, body, **options)
                span.set_attribute("messaging.message.id", str(receipt))
                return receipt

        @wraps(method)
        async def put_async(queue: Any, body: Any, **options: Any) -> Any:
            with self._putting(queue, "put") as span:
                receipt = await method(queue, body, **options)
                span.set_attribute("messaging.message.id", str(receipt))
                return receipt

        return put_async if inspect.iscoroutinefunction(method) else put

    def put_many(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Around Queue.put_many: one span for all of them."""

        @wraps(method)
        def put_many(queue: Any, bodies: Any, **options: Any) -> Any:
            with self._putting(queue, "put_many") as span:
                receipts = method(queue, bodies, **options)
                span.set_attribute("messaging.batch.message_count", len(receipts))
                return receipts

        @wraps(method)
        async def put_many_async(queue: Any, bodies: Any, **options: Any) -> Any:
            with self._putting(queue, "put_many") as span:
                receipts = await method(queue, bodies, **options)
                span.set_attribute("messaging.batch.message_count", len(receipts))
                return receipts

        return put_many_async if inspect.iscoroutinefunction(method) else put_many

    # -- deliveries -----------------------------------------------------------------------------------------

    @contextmanager
    def _processing(self, message: Message) -> Iterator[None]:
        envelope, name = message.envelope, message.queue
        attributes: dict[str, str | int] = {
            **_about(name),
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.message.id": message.id,
            "messaging.message.body.size": len(envelope.body),
            "messaging.client.id": message.consumer,
            "reliq.attempt": envelope.attempt,
            "reliq.delivery": envelope.deliveries,
        }
        with self.tracer.start_as_current_span(
            f"process {name}",
            context=_parent(message),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if envelope.attempt > 1:
                last = str(envelope.meta.get("e", ""))
                span.add_event("reliq.retry", {"reliq.attempt": envelope.attempt, "reliq.last_error": last})
            try:
                yield
            except BaseException as error:
                _failed(span, error)
                raise

    def handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Around the function of a handler in a worker."""

        @wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            message = context.handled()
            if not isinstance(message, Message):
                return function(*args, **kwargs)
            with self._processing(message):
                return function(*args, **kwargs)

        @wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            message = context.handled()
            if not isinstance(message, Message):
                return await function(*args, **kwargs)
            with self._processing(message):
                return await function(*args, **kwargs)

        return coroutine if _is_coroutine_function(function) else plain

    def enter(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Around Leased.enter: ``with lease:`` begins."""

        @wraps(method)
        def enter(lease: Any) -> None:
            method(lease)
            lease._span = self._processing(lease._message), sys.exc_info()[1]
            lease._span[0].__enter__()

        return enter

    def leave(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Around Leased.leave: it ends, by an exception that was not there before or without one."""

        @wraps(method)
        def leave(lease: Any) -> None:
            span, before = lease.__dict__.pop("_span", (None, None))
            if span is not None:
                error = sys.exc_info()[1]
                error = None if error is before else error
                span.__exit__(type(error) if error else None, error, error and error.__traceback__)
            method(lease)

        return leave


def _about(queue: str) -> dict[str, str]:
    return {"messaging.system": _SYSTEM, "messaging.destination.name": queue}


def _parent(message: Message) -> Any:
    """The put's span, as the message carries it; None: a trace of its own."""
    carried, trace_id = message.envelope.meta.get("s"), message.envelope.meta.get("t")
    try:
        span_id, _, flags = str(carried).partition("-")
        of = SpanContext(int(str(trace_id), 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    except ValueError:
        return None
    return set_span_in_context(NonRecordingSpan(of)) if of.is_valid else None


def _failed(span: Span, error: BaseException) -> None:
    """What the handler has raised, and what that asks for."""
    if isinstance(error, Release):
        span.add_event("reliq.released")
        return
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, describe(error)))
    span.set_attribute("error.type", type(error).__qualname__)
    span.add_event("reliq.buried" if isinstance(error, Bury) else "reliq.failed")


def _is_coroutine_function(function: Any) -> bool:
    call = getattr(type(function), "__call__", None)  # noqa: B004 - not whether it is callable, but how
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def instrument(provider: trace.TracerProvider | None = None, *, setup: Callable[[], Any] | None = None) -> None:
    """Make spans from here on, in this process and those that it forks. Workers that run already go on without.

    ``provider``: where they go (None: to the global one). ``setup`` is called in each process before its first
    span: exporters have threads, which a fork does not take along, and which `reliq worker` must not have before.
    What it returns is called at the end of such a process: the provider's ``shutdown``, or spans are left behind.
    """
    made = _Instrument(provider, setup)
    hooks.switch_on(
        {
            "put": made.put,
            "put_many": made.put_many,
            "handler": made.handler,
            "enter": made.enter,
            "leave": made.leave,
        }
    )


def uninstrument() -> None:
    """Make none any more."""
    hooks.switch_off()
