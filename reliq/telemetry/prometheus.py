"""Metrics in the text format of Prometheus, by its own client: ``pip install 'reliq[prometheus]'``.

Labels are bounded: the queue, and words of closed lists. A worker tells what its processes did (``worker_page``),
an exporter how the queues are, whoever works on them (``queues_page``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from reliq.core.pulse import Pulse
from reliq.identity import clock
from reliq.serving import Page
from reliq.telemetry.tally import CAUSES, RUN_BUCKETS, WAIT_BUCKETS, Row, Tally

MISSING: Final = "metrics need the package prometheus_client, which is not here: pip install 'reliq[prometheus]'"
#: What the counters in a queue's ``stats`` are of.
EVENTS: Final = ("ack", "retry", "release", "bury", "reap", "revive", "discard", "restore", "cancel", "reschedule")


def installed() -> bool:
    """Whether the package is there."""
    return find_spec("prometheus_client") is not None


def missing() -> Page:
    """What is answered if it is not."""
    return Page(501, f"{MISSING}\n")


def _page(families: Iterable[Any]) -> Page:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    found = list(families)

    class Families(Collector):
        def collect(self) -> Iterable[Any]:
            return found

    registry = CollectorRegistry()
    registry.register(Families())
    return Page(200, generate_latest(registry).decode(), CONTENT_TYPE_LATEST)


# -- a worker -----------------------------------------------------------------------------------------------


class _Counter(NamedTuple):
    """A counter of a worker: label values beside the queue -> number in the tally."""

    name: str
    text: str
    labels: tuple[str, ...]
    of: dict[tuple[str, ...], str]


_COUNTERS: Final = (
    _Counter("reliq_acks", "Messages that were handled and acked.", (), {(): "acked"}),
    _Counter(
        "reliq_retries",
        "Messages that went back: their handler failed, or put them back to come later, they were given back to "
        "the head, or the worker that held them was lost, and this one reaped it.",
        ("cause",),
        {
            ("failed",): "failed",
            ("put_back",): "put_back",
            ("released",): "released",
            ("unrouted",): "unrouted",
            ("lost",): "reaped",
        },
    ),
    _Counter(
        "reliq_dead_letters",
        "Messages that were given up.",
        ("cause",),
        {(cause,): "poisoned" if cause == "POISON" else f"dead:{cause}" for cause in CAUSES},
    ),
    _Counter("reliq_late_acks", "Settles that were refused: the lease had ended.", (), {(): "late"}),
    _Counter("reliq_lost_leases", "Messages in hand whose lease was lost.", (), {(): "lost"}),
    _Counter(
        "reliq_reconciles",
        "Round trips that compared all that is held: at each connect, and when a reply was lost.",
        (),
        {(): "reconciled"},
    ),
    _Counter("reliq_trips", "Round trips that Redis has answered.", (), {(): "trips"}),
)


def worker_page(tallies: Sequence[Tally]) -> Page:
    """What these processes of a worker have counted, together."""
    return _page(_worker_families(tallies))


def _worker_families(tallies: Sequence[Tally]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    rows: dict[str, list[Row]] = {}
    for tally in tallies:
        for queue, row in tally.rows.items():
            rows.setdefault(queue, []).append(row)
    for name, text, labels, of in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=["queue", *labels])
        for queue, mine in rows.items():
            for values, number in of.items():
                counter.add_metric([queue, *values], sum(row.count(number) for row in mine))
        yield counter
    runs = HistogramMetricFamily("reliq_run_time_seconds", "How long handlers ran.", labels=["queue"])
    waits = HistogramMetricFamily(
        "reliq_queue_time_seconds",
        "Between put and claim, of messages that were handed out for the first time; a delay of the put counts.",
        labels=["queue"],
    )
    least = GaugeMetricFamily(
        "reliq_lease_headroom_seconds", "The least that was left of a lease when it was renewed, of late.",
        labels=["queue"],
    )  # fmt: skip
    for queue, mine in rows.items():
        _add(runs, queue, RUN_BUCKETS, [row.runs for row in mine])
        _add(waits, queue, WAIT_BUCKETS, [row.waits for row in mine])
        headroom = [found for row in mine if (found := row.least_headroom(clock())) is not None]
        if headroom:
            least.add_metric([queue], min(headroom))
    yield from (runs, waits, least)


def _add(family: Any, queue: str, buckets: Sequence[float], found: Sequence[tuple[list[float], float]]) -> None:
    total, sums = 0.0, []
    for place, limit in enumerate([*map(repr, buckets), "+Inf"]):
        total += sum(counts[place] for counts, _ in found)
        sums.append((limit, total))
    family.add_metric([queue], sums, sum(seconds for _, seconds in found))


# -- queues, from outside -----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A queue as the exporter has seen it. ``events``: the counters that its consumers keep in Redis; ``causes``:
    dead letters by cause, as far as they were read."""

    queue: str
    pulse: Pulse
    doing: int
    events: Mapping[str, int]
    causes: Mapping[str, int]


def queues_page(seen: Sequence[Seen], *, up: bool) -> Page:
    """How queues are. ``up``: whether Redis has answered."""
    return _page(_queue_families(seen, up))


def _queue_families(seen: Sequence[Seen], up: bool) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    yield GaugeMetricFamily("reliq_redis_up", "Whether Redis has answered.", value=float(up))
    depth = GaugeMetricFamily("reliq_depth", "Messages in each state.", labels=["queue", "state"])
    oldest = GaugeMetricFamily(
        "reliq_oldest_age_seconds", "Since the put of the message that is claimed next; 0 if none waits.",
        labels=["queue"],
    )  # fmt: skip
    dead = GaugeMetricFamily("reliq_dead", "Dead letters by cause.", labels=["queue", "cause"])
    consumers = GaugeMetricFamily(
        "reliq_consumers", "Consumers whose claim loop goes on (live), and others that are registered (stale).",
        labels=["queue", "state"],
    )  # fmt: skip
    events = CounterMetricFamily(
        "reliq_events", "What became of messages, whoever worked on them.", labels=["queue", "event"]
    )
    for queue, pulse, doing, counted, causes in seen:
        states = {"ready": pulse.ready, "due": pulse.due, "later": pulse.later - pulse.due, "doing": doing}
        for state, number in (states | {"dead": pulse.dead}).items():
            depth.add_metric([queue, state], max(0, number))
        oldest.add_metric([queue], (pulse.oldest_ms or 0) / 1000)
        for cause, number in causes.items():
            dead.add_metric([queue, cause], number)
        live = sum(beat.goes_on for beat in pulse.beats)
        consumers.add_metric([queue, "live"], live)
        consumers.add_metric([queue, "stale"], len(pulse.beats) - live + pulse.lapsed)
        for event in EVENTS:
            events.add_metric([queue, event], counted.get(event, 0))
    yield from (depth, oldest, dead, consumers, events)
