"""How a worker is, and the three pages that say so: /healthz, /readyz and /metrics. No I/O in here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from reliq import hooks
from reliq.ack import Handler
from reliq.core.pulse import SILENCE_SHARE
from reliq.core.reasons import Reason
from reliq.core.words import duration
from reliq.middleware import Middleware, around
from reliq.model import QueueOptions
from reliq.routing import Handling
from reliq.running import Slot
from reliq.serving import Page, Pages
from reliq.telemetry import prometheus
from reliq.telemetry.tally import Tally, Watch
from reliq.working import Working


class Sign(NamedTuple):
    """Of one queue: seconds since Redis has last answered a round trip for it, and its lease. ``whose``: the
    process, if there are several."""

    queue: str
    silent: float
    lease: float
    whose: str = ""

    @property
    def of_life(self) -> bool:
        """A loop that is well makes a trip in a third of the lease; after two thirds no handler is started."""
        return self.silent <= self.lease * SILENCE_SHARE

    def __str__(self) -> str:
        last = f"answered its last round trip {duration(self.silent * 1000)} ago"
        return f"queue {self.queue}{self.whose}: Redis {last}, and the lease is {duration(self.lease * 1000)}"


class Vitals(NamedTuple):
    """How a worker is. ``stuck``: a line for each handler that does not come back; ``away``: why it does not
    claim, empty if it does."""

    signs: list[Sign]
    stuck: list[str]
    away: str = ""


def vitals(loop: Working[Any], slots: Iterable[Slot], now: float) -> Vitals:
    """How the loop of this process is."""
    signs = [Sign(s.options.name, now - s.engine.answered_at, s.options.lease) for s in list(loop.stations)]
    held = [(slot, message) for slot in slots if (message := slot.message) is not None and slot.stuck]
    stuck = [stuck_line(m.queue, m.id, now - slot.started_at) for slot, m in held]
    return Vitals(signs, stuck, _away(loop))


def _away(loop: Working[Any]) -> str:
    """Why it does not claim."""
    if loop.leave_by is not None or loop.stops:
        return "it stops"
    if loop.is_quiet:
        return "it was told from afar to claim no more"
    return "" if loop.stations else "it starts"


def stuck_line(queue: str, id: str, seconds: float) -> str:
    """A handler that does not come back."""
    return f"{Reason.HANDLER_STUCK}: queue {queue}: message {id} is in hand for {duration(seconds * 1000)}"


def tally(queues: Sequence[str], memory: Callable[[int], Any] = bytearray) -> Tally | None:
    """What counts for these queues, in so many bytes of ``memory``; None if there is nobody to tell it to."""
    return Tally(queues, memory(Tally.size(queues))) if prometheus.installed() else None


def observed(
    handling: Handling, options: QueueOptions, counts: Tally | None, middleware: Sequence[Middleware] = ()
) -> Handling:
    """What handles a queue, with what is around it, and is switched on; itself if that is nothing. ``options``: of
    the queue that it is for here, which may be a level of its own; ``middleware``: of the worker."""
    watch = None if counts is None else counts.watch(options.name, options.lease)
    return handling.each(partial(_observed, watch=watch, middleware=(*middleware, *options.middleware)))


def check_around(handlers: Sequence[Handler[..., Any]], middleware: Sequence[Middleware]) -> None:
    """ConfigError if some middleware cannot stand around one of these handlers."""
    for handler in handlers:
        _surrounded(handler, (*middleware, *handler.queue.options.middleware))


def _surrounded(handler: Handler[..., Any], middleware: Sequence[Middleware]) -> Handler[..., Any]:
    if not middleware:
        return handler
    function = around(handler.function, middleware, handler.name, is_async=handler.is_async)
    return handler if function is handler.function else handler.around(lambda _: function)


def _observed(
    handler: Handler[..., Any], watch: Watch | None, middleware: Sequence[Middleware]
) -> Handler[..., Any]:
    handler = _surrounded(handler, middleware)
    function = hooks.wrapped("handler", handler.function)
    if function is not handler.function:
        handler = handler.around(lambda _: function)
    return handler if watch is None else handler.around(partial(watch.timed, is_async=handler.is_async), watch)


def pages(look: Callable[[], Vitals], tallies: Iterable[Tally | None]) -> Pages:
    """The pages of a worker whose processes count there."""
    known = [each for each in tallies if each is not None]

    def metrics() -> Page:
        return prometheus.worker_page(known) if prometheus.installed() else prometheus.missing()

    return {
        "/healthz": lambda: _page(_ailments(look())),
        "/readyz": lambda: _page(_hindrances(look())),
        "/metrics": metrics,
    }


def _ailments(seen: Vitals) -> list[str]:
    silent = [f"{Reason.CLAIM_LOOP_STALLED}: {sign}" for sign in seen.signs if not sign.of_life]
    return silent + seen.stuck


def _hindrances(seen: Vitals) -> list[str]:
    if seen.away:
        return [f"not ready: {seen.away}"]
    return [f"{Reason.CLAIM_LOOP_STALLED}: {sign}" for sign in seen.signs if not sign.of_life]


def _page(wrong: list[str]) -> Page:
    return Page(503, "".join(f"{line}\n" for line in wrong)) if wrong else Page(200, "ok\n")
