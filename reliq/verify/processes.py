"""Processes that are killed, stopped, wrong about the time, or brought down by their messages. All of them are our
own subprocesses."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Collection

from reliq import defaults
from reliq.core import flows, ops
from reliq.core.flows import ConsumerInfo
from reliq.sync.queue import Queue
from reliq.sync.reaper import Reaper
from reliq.verify.child import Child
from reliq.verify.effects import STARTED, Effects, judge
from reliq.verify.finding import Broken, check
from reliq.verify.life import dead_letters, same, sizes
from reliq.verify.site import Site

#: Seconds, as promised: until a supervisor has put back what a killed child held; until children notice that their
#: supervisor is gone; between two sweeps.
_READY_AGAIN, _NOTICED, _SWEEP = 0.25, 1.0, 1.0


def put(queue: Queue, count: int, *, ms: int = 0, do: str = "work", first: int = 0) -> list[str]:
    """So many messages that are some work for a worker, numbered from ``first``."""
    return queue.put_many({"n": n, "ms": ms, "do": do} for n in range(first, first + count))


def consumers(queue: Queue) -> list[ConsumerInfo]:
    """Who is registered, and what they hold."""
    found: list[ConsumerInfo] = queue.links.flow(flows.consumers_g(queue.options.keys))
    return found


# -- workers ------------------------------------------------------------------------------------------------


@check(
    "worker-killed",
    "kill -9 of one worker process under the supervisor: its messages are ready again in < 250 ms, none is lost, "
    "and only what it had in hand is delivered again",
    "killed processes of a supervised worker while they worked",
)
def worker_killed(site: Site) -> str:
    q = site.queue("worker-killed")
    ids: set[str] = set()
    killed: dict[int, int] = {}
    with site.worker(q, processes=2, concurrency=4) as (worker, effects):
        for _ in site.rounds(0.15):
            ids.update(put(q, 40, ms=25))
            pid = site.until(lambda: _kill_one(q, worker, effects, killed), "a worker process has work in hand")
            _all_done(site, q, effects, ids, f"after process {pid} was killed")
        again = judge(ids, effects.read(), set(killed))
        sizes(q)
    took = _longest_return(site, q, killed)
    seen = f"{len(killed)} killed among {len(ids)} messages; none is lost, {again} were delivered again"
    return seen if took is None else f"{seen}; {site.in_time(took, _READY_AGAIN, 'ready')}"


def _all_done(site: Site, queue: Queue, effects: Effects, ids: Collection[str], when: str = "") -> None:
    """Wait until every message had its effect and was acked. Broken says how many had none, and how many the queue
    still has."""
    try:
        site.until(lambda: effects.done().issuperset(ids), f"all is done {when}")
    except Broken as late:
        missing, left = len(set(ids) - effects.done()), queue.size()
        raise Broken(
            f"{late.reason}: {missing} of {len(ids)} messages had no effect, and in the queue are "
            f"{left.ready} ready, {left.doing} doing, {left.later} later, {left.dead} dead"
        ) from late
    site.until(lambda: queue.size().doing == 0, "what was done is acked")


def _kill_one(queue: Queue, worker: Child, effects: Effects, killed: dict[int, int]) -> int:
    """kill -9 the process of this worker that has most in hand; its pid, 0 if none has anything. They are known by
    what they wrote themselves, with their supervisor for a parent. ``killed``: those, and when (server ms)."""
    hands = {pid: ids for pid, ids in effects.at_work(worker.pid).items() if ids and pid not in killed}
    if not hands:
        return 0
    pid = max(hands, key=lambda pid: len(hands[pid]))
    killed[pid] = queue.links.insist(ops.server_time())
    os.kill(pid, signal.SIGKILL)
    return pid


def _longest_return(site: Site, queue: Queue, killed: dict[int, int]) -> float | None:
    """Seconds from a kill until the last of its messages was ready again, as the ledger says; None if it says
    nothing."""
    found = [
        event["at"] - at
        for pid, at in killed.items()
        for event in site.events(queue, at)
        if event["event"] == "reap" and f"-{pid}-" in event["consumer"]
    ]
    return max(found) / 1000 if found else None


@check(
    "supervisor-killed",
    "kill -9 of the supervisor: its children notice in < 1 s, give back what they hold, exit",
    "killed the supervisor of two processes while they worked, and handled the rest ourselves",
)
def supervisor_killed(site: Site) -> str:
    q = site.queue("supervisor-killed")
    ids = put(q, 24, ms=150)
    with site.worker(q, processes=2, concurrency=4) as (worker, effects):
        site.until(lambda: len(effects.at_work(worker.pid)) == 2, "both processes are at work")
        killed_at = time.monotonic()
        worker.kill()
        site.until(lambda: not any(c.doing + c.inbox for c in consumers(q)), "the children hold nothing")
        took = time.monotonic() - killed_at
    left = q.size().ready
    with q.consumer() as c:
        rest = site.settle_all(c, left)
    started = {effect.number for effect in effects.read() if effect.what == STARTED}
    same(started | {body["n"] for body in rest}, set(range(len(ids))), "seen of the messages were")
    sizes(q)
    return f"{left} of {len(ids)} messages were given back, none is lost; {site.in_time(took, _NOTICED, 'all')}"


@check(
    "sigterm",
    "SIGTERM: stop claiming, finish within the grace, give back the rest in order, exit 0",
    "stopped a supervised worker in the middle of its work, and handled the rest ourselves",
)
def sigterm(site: Site) -> str:
    q = site.queue("sigterm")
    ids = put(q, 40, ms=100)
    with site.worker(q, processes=1, concurrency=4) as (worker, effects):
        site.until(lambda: effects.done(), "the worker works")
        worker.signal(signal.SIGTERM)
        same(worker.wait(30), 0, "the worker ended with status")
        sizes(q, ready=len(ids) - len(effects.done()))
    with q.consumer() as c:
        rest = [body["n"] for body in site.settle_all(c, q.size().ready)]
    same(rest, list(range(len(ids) - len(rest), len(ids))), "the rest came as")
    return f"exit status 0; {len(ids) - len(rest)} were finished, {len(rest)} given back in order"


@check(
    "failing-handlers",
    "a handler that raises, or calls sys.exit: the worker lives, and the message is retried by the policy",
    "had handlers of a supervised worker raise and exit once each",
)
def failing_handlers(site: Site) -> str:
    q = site.queue("failing-handlers")
    with site.worker(q, processes=1, concurrency=4) as (_, effects):
        ids = put(q, 5, ms=5, do="raise") + put(q, 5, ms=5, do="exit") + put(q, 10, ms=5)
        _all_done(site, q, effects, ids)
        seen = effects.read()
    starts = Counter(effect.id for effect in seen if effect.what == STARTED)
    same([starts[id] for id in ids], [2] * 10 + [1] * 10, "they were started")
    same(len({effect.pid for effect in seen}), 1, "processes that it took")
    sizes(q)
    return "10 failed once and were retried, by the same process; the others were not touched"


@check(
    "poison",
    "a message that kills every worker is dead-lettered after 3 losses, and its neighbours are not punished",
    "put a message whose handler kills its own process (SIGKILL) among others, at concurrency 4",
)
def poison(site: Site) -> str:
    q = site.queue("poison")
    with site.worker(q, processes=2, concurrency=4) as (_, effects):
        ids = put(q, 15, ms=10)
        (bad,) = put(q, 1, ms=10, do="kill")
        ids += put(q, 15, ms=10)
        site.until(lambda: q.size().dead, "it is a dead letter")
        _all_done(site, q, effects, ids)
        seen = effects.read()
    notes = [(note["cause"], note["id"]) for note in dead_letters(q)]
    same(notes, [("POISON", bad)], "the dead letters are")
    same(sum(e.what == STARTED and e.id == bad for e in seen), defaults.MAX_LOSSES, "it was started")
    killers = {effect.pid for effect in seen if effect.id == bad}
    again = judge(ids, [effect for effect in seen if effect.id != bad], killers)
    sizes(q, dead=1)
    beside = f"; {again} that were in hand beside it were delivered again" if again else ""
    return f"it died after {len(killers)} losses, alone of {len(ids) + 1}{beside}"


# -- consumers without a supervisor -------------------------------------------------------------------------


@check(
    "host-killed",
    "kill -9 of the whole host: ready again, in order, in <= lease + sweep (<= 1 s) by any other worker",
    "killed a process that held messages and had no supervisor, with a short lease, while another consumer waited",
)
def host_killed(site: Site) -> str:
    q, short = site.queue("host-killed"), site.queue("host-killed", lease=site.short_lease)
    with site.puppet(short) as puppet:
        put(q, 6)
        same(puppet.ask("claim", n=5, timeout=10)["numbers"], [0, 1, 2, 3, 4], "it claimed")
        with q.consumer() as c:
            same(site.settle_all(c, 1)[0]["n"], 5, "the other consumer got")
            puppet.kill()
            killed_at = time.monotonic()
            bodies = site.settle_all(c, 5)
            took = time.monotonic() - killed_at
    same([body["n"] for body in bodies], [0, 1, 2, 3, 4], "they came again as")
    sizes(q)
    return f"5 of 5 came again in order; {site.in_time(took, site.short_lease + _SWEEP, 'all')}"


@check(
    "stopped",
    "SIGSTOP past the lease, then SIGCONT: others finish the work, the late acks are refused, and the process "
    "carries on; what a BLMOVE put into its list meanwhile is not stranded",
    "stopped a process that held messages, and one that waited for some, for longer than a short lease",
)
def stopped(site: Site) -> str:
    q, short = site.queue("stopped"), site.queue("stopped", lease=site.short_lease)
    with site.puppet(short) as holder, site.puppet(short) as waiter:
        put(q, 3)
        same(holder.ask("claim", n=3, timeout=10)["numbers"], [0, 1, 2], "the process to be stopped claimed")
        holder.signal(signal.SIGSTOP)
        caught = _stop_waiting(site, q, waiter)
        with q.consumer() as c:
            numbers = sorted(body["n"] for body in site.settle_all(c, 4))
            same(numbers, [0, 1, 2, 3], "another consumer got")
        sizes(q)
        holder.tell("ack")  # before it can look around
        for process in (holder, waiter):
            process.signal(signal.SIGCONT)
        same(holder.answer()["acks"], ["LEASE_LOST"] * 3, "the acks of the stopped process were answered")
        for number, process in enumerate((waiter, holder), 4):  # the first of them is claiming already
            put(q, 1, first=number)
            if process is holder:
                process.tell("claim", n=1, timeout=10)
            same(process.answer()["numbers"], [number], "after that a stopped process claimed")
            same(process.ask("ack")["acks"], ["accepted"], "and its ack was answered")
    sizes(q)
    also = " (one of which BLMOVE had brought to a stopped process)" if caught else ""
    return f"3 late acks were refused, another handled all 4 messages{also}, and both went on"


def _stop_waiting(site: Site, q: Queue, waiter: Child) -> bool:
    """Stop a process that waits for a message, and put one: whether BLMOVE has brought it to the stopped process.
    (If not, it was about to wait, and the message is still ready.)"""
    waiter.tell("claim", n=1, timeout=60)
    site.until(lambda: len(consumers(q)) == 2, "the second process is registered")
    time.sleep(0.2 + 2 * site.rtt)  # by then it waits, most likely
    waiter.signal(signal.SIGSTOP)
    put(q, 1, first=3)
    return any(consumer.inbox for consumer in consumers(q))


@check(
    "clocks",
    "client clocks wrong by hours: no effect, leases and due times are compared with the server's time",
    "had a process whose clock is 5 hours slow, then 7 hours fast, put, claim and reap beside one that is right",
)
def clocks(site: Site) -> str:
    q = site.queue("clocks")
    with site.puppet(q) as puppet, q.consumer() as c:
        put(q, 1)
        (mine,) = c.claim(timeout=5)
        for hours in (-5, 7):
            puppet.ask("skew", hours=hours)
            puppet.ask("put", n=1, delay=0.3)
            same(puppet.ask("claim", n=1, timeout=10)["numbers"], [1], "it claimed what was due")
            _check_leases(q)
            same(puppet.ask("reap")["returned"], 0, "its reaper took from the living")
            same(Reaper(q, scan_steps=0).run_once().returned, 0, "our reaper took from it")
            same(puppet.ask("ack")["acks"], ["accepted"], "its ack was answered")
        mine.ack()
    sizes(q)
    return "delays and leases ended by the server's clock, and nobody was reaped"


def _check_leases(q: Queue) -> None:
    lease_ms = 1000 * q.options.lease
    for consumer in consumers(q):
        if not 0 < consumer.lease_ms <= lease_ms:
            raise Broken(
                f"the lease of {consumer.name} ends in {consumer.lease_ms} ms by the server's clock, and it is "
                f"{lease_ms:.0f} ms long"
            )
