"""Processes die, stop, hang and go mad: what DESIGN 4 promises for each, with real ones."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.core.command import Command
from tests.faults.lab import lab, wait_until

#: Seconds of killing; the full measure is 20.
KILL_SECONDS = float(os.environ.get("KILL_SECONDS", "4"))


def test_kill_9_of_a_supervised_process_brings_its_messages_back_at_once(server: Any, prefix: str) -> None:
    """Its messages are ready again in < 250 ms; nothing is lost; only what was in hand runs again."""
    seconds, messages = KILL_SECONDS, int(KILL_SECONDS * 1000)
    with lab(server, prefix) as it:
        it.queue.put_many({"n": n, "ms": 15} for n in range(messages))
        worker = it.start(processes=4, concurrency=4)
        wait_until(lambda: len(it.effects()) > 50, 10, "work begins")
        chance, kills = random.Random(7), []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.3)
            child = chance.choice(worker.children() or [0])
            if child:
                kills.append(time.time() * 1000)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        it.drained(60)
        counts = it.count()
        assert set(counts) == set(range(messages)), "lost"
        reaps = [e for e in it.events() if e["event"] == "reap"]
        extra = sum(counts.values()) - messages
        assert extra <= len(reaps)
        delays = [min((e["ms"] - kill for e in reaps if e["ms"] >= kill - 2), default=None) for kill in kills]
        took = [d for d in delays if d is not None and d < 300 + 1000]
        print(f"kills {len(kills)}, extra {extra}, reaped {len(reaps)}, ready again ms: {sorted(took)}")
        assert statistics.median(took) < 250
        assert it.queue.size().dead == 0
        assert worker.end() == 0


def test_one_segfaulting_message_dies_alone(server: Any, prefix: str) -> None:
    """One poison among 1,000 at concurrency 8: 999 handled, exactly that one dead-lettered as POISON."""
    with lab(server, prefix) as it:
        bodies: list[dict[str, Any]] = [{"n": n, "ms": 2} for n in range(1000)]
        bodies[500] = {"n": 500, "ms": 2, "do": "segfault"}
        it.queue.put_many(bodies)
        it.start(supervise=True, concurrency=8)
        it.drained(60)
        size = it.queue.size()
        assert size.dead == 1
        [member] = it.queue.links.insist(Command("ZRANGE", (it.queue.options.keys.dead,), (0, -1)))
        assert b"POISON" in member
        counts = it.count()
        assert counts[500] == 3
        assert set(counts) == set(range(1000))


def test_kill_9_of_the_supervisor_ends_its_children_and_they_give_back(server: Any, prefix: str) -> None:
    """Children notice in < 1 s, give back what they hold, and exit: ready again long before the lease ends."""
    with lab(server, prefix) as it:
        it.queue.put_many({"n": n, "ms": 60_000} for n in range(8))
        worker = it.start(processes=2, concurrency=4)
        wait_until(lambda: len(it.effects()) == 8, 10, "all in hand")
        children = worker.children()
        worker.signal(signal.SIGKILL)
        worker.process.wait(5)
        wait_until(lambda: it.queue.size().ready == 8, 3, "given back")
        wait_until(lambda: not any(_alive(pid) for pid in children), 3, "children ended")


def test_without_supervisor_the_cron_reaper_brings_all_back_in_order(server: Any, prefix: str) -> None:
    """kill -9, then `reap` as soon as the lease is over; a second reaper at the same time changes nothing."""
    with lab(server, prefix, lease=1.5) as it:
        ids = it.queue.put_many({"n": n, "ms": 60_000} for n in range(6))
        worker = it.start(concurrency=6)
        wait_until(lambda: len(it.effects()) == 6, 10, "all in hand")
        worker.signal(signal.SIGKILL)
        worker.process.wait(5)
        assert reliq.Reaper(it.queue).run_once().returned == 0  # the lease is not over
        reaper = reliq.Reaper(it.queue)
        wait_until(lambda: reaper.run_once().returned, 5, "reaped after the lease")
        assert reliq.Reaper(it.queue).run_once().returned == 0
        with it.queue.consumer(until_empty=True) as consumer:
            seen = []
            for lease in consumer:
                assert lease.deliveries == 2
                seen.append(lease.id)
                lease.ack()
        assert seen == ids


def test_any_other_worker_brings_back_what_a_lost_host_held(server: Any, prefix: str) -> None:
    """kill -9 of a worker without a supervisor: ready again within the lease and one second more."""
    with lab(server, prefix, lease=2.0) as it:
        victim = it.start(concurrency=4)
        it.queue.put_many({"n": n, "ms": 60_000} for n in range(4))
        wait_until(lambda: len(it.effects()) == 4, 10, "all in hand")
        other = it.start(concurrency=1)
        wait_until(lambda: "worker started" in other.log(), 10, "another worker")
        died = time.time() * 1000  # the clock of the server, too
        victim.signal(signal.SIGKILL)
        reaps = wait_until(lambda: [e["ms"] - died for e in it.events() if e["event"] == "reap"], 10, "reaped")
        assert len(reaps) == 4
        assert max(reaps) <= 2000 + 1000
        other.signal(signal.SIGKILL)  # it has one of them in hand for a minute


def test_a_stopped_worker_loses_its_messages_and_carries_on_cleanly(server: Any, prefix: str) -> None:
    """SIGSTOP for 2 leases, then SIGCONT: others do the work, late acks are refused and reported, none lost."""
    with lab(server, prefix, lease=1.0) as it:
        it.queue.put_many({"n": n, "ms": 300} for n in range(4))
        zombie = it.start(concurrency=4)
        wait_until(lambda: len(it.effects()) >= 4, 10, "in its hands")
        zombie.signal(signal.SIGSTOP)
        other = it.start(concurrency=4)
        wait_until(lambda: len(it.effects()) >= 8, 10, "done by the other")
        it.drained(10)
        other.end()
        zombie.signal(signal.SIGCONT)
        wait_until(lambda: [e for e in it.events() if e["event"] == "late"], 5, "late acks are refused")
        it.queue.put_many({"n": n, "ms": 0} for n in range(100, 110))
        it.drained(10)
        assert set(it.count()) == {*range(4), *range(100, 110)}
        assert "late settle" in zombie.log()
        assert it.queue.size().dead == 0


@pytest.mark.parametrize("deed", ["exit", "raise"])
def test_nothing_that_a_handler_raises_ends_the_worker(server: Any, prefix: str, deed: str) -> None:
    """SystemExit and a bare BaseException are failed attempts like any other."""
    with lab(server, prefix) as it:
        it.queue.put_many([{"n": 1, "do": deed}, {"n": 2}])
        worker = it.start(concurrency=2)
        it.drained(15)
        assert it.count() == {1: 3, 2: 1}
        assert it.queue.size().dead == 1
        assert worker.process.poll() is None


def test_a_hung_handler_is_replaced_under_the_supervisor(server: Any, prefix: str) -> None:
    """Past its timeout the process is replaced, the message counts a failed attempt, others go on."""
    with lab(server, prefix) as it:
        it.queue.put_many([{"n": 0, "do": "hang"}, *({"n": n, "ms": 20} for n in range(1, 50))])
        it.start(supervise=True, concurrency=2, timeout=0.5, grace=2)
        it.drained(40)
        counts = it.count()
        assert set(counts) == set(range(50))
        assert counts[0] == 3
        assert it.queue.size().dead == 1


def test_a_handler_that_leaks_memory_costs_its_process_and_nothing_else(server: Any, prefix: str) -> None:
    """What is too large is killed, here as by the kernel: the process is replaced, all others are handled, and the
    message is dead-lettered after three of them."""
    with lab(server, prefix) as it:
        it.queue.put_many({"n": n, "ms": 5, **({"do": "leak"} if n == 30 else {})} for n in range(100))
        worker = it.start(supervise=True, concurrency=4)
        killed: set[int] = set()

        def settled() -> bool:
            for child in worker.children():
                if _resident_mb(child) > 300:
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
            return it.at_rest()

        wait_until(settled, 60, "the queue is drained")
        assert set(it.count()) == set(range(100))
        assert (it.count()[30], len(killed)) == (3, 3)
        assert it.queue.size().dead == 1
        assert worker.end() == 0


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it is gone, or going
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_held_gil_does_not_cost_the_lease_under_the_supervisor(server: Any, prefix: str) -> None:
    """The supervisor renews for a child whose handler keeps the interpreter lock for three leases."""
    with lab(server, prefix, lease=1.0) as it:
        it.queue.put({"n": 1, "do": "gil", "seconds": 3.5})
        it.start(supervise=True, concurrency=1)
        wait_until(lambda: it.effects(), 10, "in hand")
        other = it.start(concurrency=1)
        it.drained(15)
        assert it.count() == {1: 1}
        assert other.process.poll() is None


def test_a_stopped_child_is_not_renewed_for(server: Any, prefix: str) -> None:
    """SIGSTOP of one child: the supervisor does not keep its lease, so others do its work."""
    with lab(server, prefix, lease=1.0) as it:
        it.queue.put({"n": 1, "ms": 300})
        worker = it.start(supervise=True, concurrency=1)
        wait_until(it.effects, 10, "in hand")
        [child] = worker.children()
        os.kill(child, signal.SIGSTOP)
        it.start(concurrency=1)
        wait_until(lambda: it.count()[1] == 2, 5, "done by the other")
        it.drained(5)
        os.kill(child, signal.SIGCONT)


def test_a_grandchild_that_keeps_the_sockets_takes_no_message_with_it(server: Any, prefix: str) -> None:
    """A handler forked and its process is killed: the server still sees that process in BLMOVE, and the next
    message must not be stranded with it."""
    with lab(server, prefix, block=5.0) as it:
        worker = it.start(processes=1, supervise=True, concurrency=2)
        it.queue.put({"n": 1, "do": "fork", "seconds": 8})
        it.drained(10)
        [child] = worker.children()
        time.sleep(0.1)  # let it block in BLMOVE again
        os.kill(child, signal.SIGKILL)
        it.queue.put_many([{"n": 2}, {"n": 3}])
        wait_until(lambda: set(it.count()) == {1, 2, 3}, 3, "both handled at once")


def test_a_suspect_is_run_beside_a_stuck_slot_if_nobody_else_lives(server: Any, prefix: str) -> None:
    """Empty hands never come, because one handler hangs; the message that a worker died with runs all the same."""
    with lab(server, prefix, lease=1.5) as it:
        first = it.start(concurrency=2)
        it.queue.put({"n": 1, "ms": 700})
        wait_until(it.effects, 10, "in hand")
        first.signal(signal.SIGKILL)
        first.process.wait(5)
        it.queue.put({"n": 0, "do": "hang"})
        it.start(concurrency=2, grace=0.5)  # takes the hanging one; the suspect comes back a lease later
        wait_until(lambda: it.count()[1] == 2, 15, "the suspect ran beside the stuck slot")


def test_neighbours_of_a_poison_message_that_takes_long_are_not_buried_with_it(server: Any, prefix: str) -> None:
    """One worker, four handlers of 1.5 s, one of them poison: only that one dies, whatever was beside it."""
    with lab(server, prefix) as it:
        it.queue.put_many([{"n": n, "ms": 1500} for n in range(3)] + [{"n": 3, "ms": 300, "do": "segfault"}])
        it.start(supervise=True, concurrency=4)
        it.drained(40)
        assert it.queue.size().dead == 1
        assert it.count()[3] == 3
        assert max(it.count()[n] for n in range(3)) == 2


def test_sigterm_finishes_gives_back_and_exits_0(server: Any, prefix: str) -> None:
    """SIGTERM: what runs may finish within the grace; what no handler saw goes back in order, uncounted."""
    with lab(server, prefix) as it:
        ids = it.queue.put_many({"n": n, "ms": 400} for n in range(12))
        worker = it.start(concurrency=4, prefetch=1000)
        wait_until(lambda: len(it.effects()) >= 4, 10, "at work")
        assert worker.end() == 0
        done = set(it.count())
        with it.queue.consumer(until_empty=True) as consumer:
            rest = []
            for lease in consumer:
                assert lease.deliveries == 1
                rest.append(lease.id)
                lease.ack()
        assert rest == [id for n, id in enumerate(ids) if n not in done]


def test_a_second_sigterm_gives_back_at_once(server: Any, prefix: str) -> None:
    """The second signal does not wait for handlers."""
    with lab(server, prefix) as it:
        ids = it.queue.put_many({"n": n, "ms": 60_000} for n in range(4))
        worker = it.start(supervise=True, concurrency=4)
        wait_until(lambda: len(it.effects()) == 4, 10, "at work")
        worker.signal(signal.SIGTERM)
        wait_until(lambda: "worker stops" in worker.log(), 5, "first signal seen")
        worker.signal(signal.SIGTERM)
        wait_until(lambda: it.queue.size().ready == 4, 5, "given back")
        assert worker.process.wait(10) == 0
        with it.queue.consumer() as consumer:
            leases = consumer.claim(4)
            assert [lease.id for lease in leases] == ids
            for lease in leases:
                assert (lease.deliveries, lease.attempt) == (2, 1)
                lease.ack()


def test_a_reaper_may_be_stopped_from_a_signal_handler() -> None:
    """In the very thread that runs it, at any moment: stop() takes no lock that the thread may hold."""
    program = """
import signal, reliq
for n in range(500):
    reaper = reliq.Reaper(interval=1e-5)
    signal.signal(signal.SIGALRM, lambda number, frame: reaper.stop())
    signal.setitimer(signal.ITIMER_REAL, 0.0005 + n * 1e-6)
    reaper.run()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
