"""Spans of puts and deliveries, by OpenTelemetry's own SDK: one trace from the put to every attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import reliq
import reliq.aio
from reliq.core import envelope as env
from reliq.lease import Leased
from reliq.telemetry import otel
from tests.conformance.shell import Shell


class Spans:
    """What was collected, and the provider that did."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def __call__(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Switched on for one test."""
    made = Spans()
    otel.instrument(made.provider)
    yield made
    otel.uninstrument()


def below(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and (child.parent.trace_id, child.parent.span_id) == (
        parent.context.trace_id,
        parent.context.span_id,
    )


async def run(sh: Shell, *handlers: Any) -> None:
    await sh.start(sh.Worker(*handlers, until_empty=True).run)


@pytest.mark.parametrize("kind", ["plain", "coroutine", "with lease"])
async def test_one_trace_from_put_to_handler(sh: Shell, spans: Spans, kind: str) -> None:
    """The delivery is below the put, and what the handler puts is below the delivery."""
    queue, next_queue = sh.queue("emails"), reliq.Queue("audit", sh.url, prefix=sh.prefix)

    def work(body: Any) -> None:
        next_queue.put(body)

    if kind == "plain":
        handle = queue.ack(work)
    elif kind == "coroutine":

        @queue.ack
        async def handle(body: Any) -> None:
            await asyncio.sleep(0)
            work(body)
    else:

        @queue.ack
        def handle(body: Any, lease: Any) -> None:
            work(body)

    id = await sh(queue.put({"to": "ada"}))
    await run(sh, handle)
    next_queue.close()
    put, process, inner = spans.one("put emails"), spans.one("process emails"), spans.one("put audit")
    assert put.parent is None
    assert below(process, put)
    assert below(inner, process)
    assert (put.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert put.attributes == {
        "messaging.system": "reliq",
        "messaging.destination.name": "emails",
        "messaging.operation.name": "put",
        "messaging.operation.type": "send",
        "messaging.message.id": id,
    }
    assert process.attributes is not None
    found = dict(process.attributes)
    assert str(found.pop("messaging.client.id")).count("-") >= 2
    assert found == {
        "messaging.system": "reliq",
        "messaging.destination.name": "emails",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": id,
        "messaging.message.body.size": 8,
        "reliq.attempt": 1,
        "reliq.delivery": 1,
    }
    assert process.status.status_code is StatusCode.UNSET


async def test_retries_are_told(sh: Shell, spans: Spans) -> None:
    """Each attempt is a span below the put; a failed one has the exception, the next one says what was before."""
    queue = sh.queue("emails", retry=reliq.Retry(attempts=2, wait=lambda state: 0.01))

    @queue.ack
    def handle(body: Any) -> None:
        raise ValueError("no such address")

    await sh(queue.put(1))
    await run(sh, handle)
    while len(spans("process emails")) < 2:
        await run(sh, handle)
    first, second = spans("process emails")
    assert below(first, spans.one("put emails"))
    assert below(second, spans.one("put emails"))
    assert [event.name for event in first.events] == ["exception", "reliq.failed"]
    assert [event.name for event in second.events] == ["reliq.retry", "exception", "reliq.failed"]
    assert second.events[0].attributes == {
        "reliq.attempt": 2, "reliq.last_error": "ValueError: no such address"
    }  # fmt: skip
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "ValueError: no such address"


async def test_consumers_that_pull(sh: Shell, spans: Spans) -> None:
    """``with lease:`` is a span, by what is raised in it; an error outside of it is none of its."""
    queue = sh.queue("emails", retry=reliq.Retry(attempts=1))
    await sh(queue.put_many(["fine", "fail", "later"]))
    async with sh.open(queue.consumer(until_empty=True)) as consumer:
        async for lease in sh.each(consumer):
            if lease.attempt > 1 or lease.deliveries > 1:
                await sh(lease.bury("enough"))
                continue
            try:
                raise KeyError("outside")
            except KeyError:
                async with sh.open(lease):
                    if lease.body == "fail":
                        raise ValueError("no") from None
                    if lease.body == "later":
                        raise reliq.Release from None
    fine, fail, later = spans("process emails")
    many = spans.one("put_many emails")
    assert all(below(span, many) for span in (fine, fail, later))
    assert many.attributes is not None
    assert many.attributes["messaging.batch.message_count"] == 3
    assert [span.status.status_code for span in (fine, fail, later)] == [
        StatusCode.UNSET, StatusCode.ERROR, StatusCode.UNSET
    ]  # fmt: skip
    assert [[event.name for event in span.events] for span in (fine, fail, later)] == [
        [], ["exception", "reliq.failed"], ["reliq.released"]
    ]  # fmt: skip


async def test_a_put_that_fails(sh: Shell, spans: Spans) -> None:
    """Its span has the exception."""
    queue = sh.queue("emails", max_body=10)
    with pytest.raises(reliq.ReliqError):
        await sh(queue.put("x" * 100))
    assert spans.one("put emails").status.status_code is StatusCode.ERROR


async def test_what_the_message_carries(sh: Shell, spans: Spans, redis: Any) -> None:
    """A traceparent in two keys of its meta, which older readers keep; a span that is not sampled says so."""
    queue = sh.queue("emails")
    await sh(queue.put(1))
    of = spans.one("put emails").context
    (element,) = redis.lrange(queue.options.keys.ready, 0, -1)
    assert env.unpack(element).meta == {
        "t": f"{of.trace_id:032x}",
        "s": f"{of.span_id:016x}-{int(of.trace_flags):02x}",
    }
    otel.instrument(TracerProvider(sampler=ALWAYS_OFF))
    await sh(queue.put(2))
    flags = env.unpack(redis.lindex(queue.options.keys.ready, 0)).meta["s"].partition("-")[2]
    assert (int(of.trace_flags) & 1, int(flags, 16) & 1) == (1, 0)


@pytest.mark.parametrize(
    "meta", [{"t": "a-trace"}, {"t": "0" * 32, "s": "0" * 16 + "-01"}, {"t": "1" * 32, "s": 5}]
)
async def test_a_trace_that_is_none(sh: Shell, spans: Spans, redis: Any, meta: dict[str, Any]) -> None:
    """A message whose trace id is no W3C one begins a trace of its own."""
    queue = sh.queue("emails")

    @queue.ack
    def handle(body: Any) -> None:
        pass

    element = env.seal(env.named_id("x") + env.pack_meta(meta) + b"\x01")
    redis.lpush(queue.options.keys.ready, element)
    await run(sh, handle)
    assert spans.one("process emails").parent is None


async def test_off_is_as_written(sh: Shell) -> None:
    """Until it is switched on, and after it was switched off, the methods are the functions that were written."""
    places = [(reliq.Queue, "put"), (reliq.aio.Queue, "put_many"), (Leased, "enter")]
    before = [vars(owner)[name] for owner, name in places]
    assert not any(hasattr(method, "__wrapped__") for method in before)
    otel.instrument()
    assert all(
        vars(owner)[name].__wrapped__ is method for (owner, name), method in zip(places, before, strict=True)
    )
    otel.uninstrument()
    assert [vars(owner)[name] for owner, name in places] == before


async def test_nobody_collects(sh: Shell, redis: Any) -> None:
    """Without a provider there are no spans, and messages carry nothing."""
    otel.instrument()
    try:
        queue = sh.queue("emails")
        await sh(queue.put(1))
    finally:
        otel.uninstrument()
    assert env.unpack(redis.lindex(queue.options.keys.ready, 0)).meta == {}
