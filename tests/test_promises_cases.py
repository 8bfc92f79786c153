"""Hard cases of DESIGN 9 that no other file is about, on real servers; test_promises.py has the whole list."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq import defaults
from reliq.core import envelope as env
from reliq.core import scripts
from reliq.identity import clock, consumer_name
from reliq.sync.supervisor import Child, Supervisor
from tests.conformance.shell import Shell, until
from tests.faults.proxy import FaultProxy, black_hole, drop_request
from tests.servers import RedisServer, ServerBinary, find_servers


@pytest.fixture(params=["sync", "aio"])
async def sh(request: pytest.FixtureRequest, server: Any, prefix: str) -> AsyncIterator[Shell]:
    shell = Shell(request.param, server.url, prefix)
    yield shell
    await shell.finish()


@pytest.fixture
def proxy(server: Any) -> Any:
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update({s.name: s.sha for s in vars(scripts).values() if isinstance(s, scripts.Script)})
        yield running


@asynccontextmanager
async def working(sh: Shell, handler: Any, **options: Any) -> AsyncIterator[None]:
    """A worker beside the test, stopped whatever comes of it."""
    worker = sh.Worker(handler, signals=False, **options)
    task = sh.start(worker.run)
    try:
        yield
    finally:
        worker.stop()
        await task


# -- 1: leases by a clock that counts through suspend -------------------------------------------------------


def test_leases_are_counted_by_a_clock_that_goes_on_through_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_BOOTTIME where there is one: a laptop that slept for an hour holds no lease any more."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this platform has no CLOCK_BOOTTIME")
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 4711.0}.__getitem__)
    assert clock() == 4711.0


# -- 5: one put outstanding for each series -----------------------------------------------------------------


async def test_puts_at_once_have_series_of_their_own(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Each of four puts that are under way together can be repeated without swallowing, or being swallowed by,
    another one. (Those that went in one round trip are repeated together.)"""
    q = sh.queue(url=proxy.url, timeout=1.0)
    await sh(q.put("first"))
    rule = proxy.on(script="put", action=drop_request(), count=None)
    tries = [sh.start(q.put, n) for n in range(4)]
    errors = await asyncio.gather(*tries, return_exceptions=True)
    rule.remove()
    assert all(isinstance(error, reliq.OutcomeUnknown) for error in errors), errors
    replays = {error.replay.args[:2] for error in errors if isinstance(error, reliq.OutcomeUnknown)}
    assert len({producer for producer, _ in replays}) == len(replays)
    await sh(q.put("last"))
    for error in reversed(errors):
        await sh(q.repeat(error))
        await sh(q.repeat(error))
    assert sorted(map(str, await sh.drain(sh.queue()))) == ["0", "1", "2", "3", "first", "last"]


async def test_a_series_whose_put_is_unknown_is_frozen(sh: Shell, proxy: FaultProxy) -> None:
    """It never ran, later puts did, and then it is repeated: a high-water mark alone would take it for old."""
    q = sh.queue(url=proxy.url, timeout=0.5)
    await sh(q.put(1))
    rule = proxy.on(script="put", action=drop_request(), count=None)
    with pytest.raises(reliq.OutcomeUnknown) as caught:
        await sh(q.put(5))
    rule.remove()
    for n in (6, 7):
        await sh(q.put(n))
    await sh(q.repeat(caught.value))
    assert await sh.drain(sh.queue()) == [1, 6, 7, 5]


# -- 7: acks do not wait behind a blocked claim -------------------------------------------------------------


async def test_an_ack_does_not_wait_behind_a_claim_that_blocks(sh: Shell) -> None:
    """One consumer: somebody waits in BLMOVE for five seconds, somebody else acks meanwhile."""
    q = sh.queue(block=5.0)
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        waiting = sh.start(c.claim, timeout=4)
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await sh(lease.ack())
        assert time.monotonic() - started < 0.5
        assert not waiting.done()
        assert tuple(await sh(q.size())) == (0, 0, 0, 0)
        await sh(q.put(2))
        (lease,) = await waiting
        await sh(lease.ack())


async def test_a_worker_settles_while_its_bell_blocks(sh: Shell, redis: redis_py.Redis) -> None:
    """One handler works, one slot is free, so BLMOVE blocks: what was handled is gone at once, not 5 s later."""
    q = sh.queue(block=5.0)
    done: list[float] = []

    async def handle(body: Any) -> None:
        await asyncio.sleep(0.4)
        done.append(time.monotonic())

    await sh(q.put(1))
    async with working(sh, q.ack(handle), concurrency=2):
        assert await until(lambda: done)
        assert await until(lambda: not redis.keys(f"{sh.prefix}:*doing:*"), seconds=1.0)


# -- 8: registrations come back by themselves ---------------------------------------------------------------


async def test_a_registration_that_is_gone_comes_back_with_the_next_trip(sh: Shell, redis: redis_py.Redis) -> None:
    """Renew is an upsert: what an operator or a rollback took is there again, and the message in hand is safe."""
    q = sh.queue()
    keys = q.options.keys
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert redis.zrem(keys.consumers, c.name) == 1
        assert await until(lambda: redis.zscore(keys.consumers, c.name) is not None, seconds=3.0)
        await sh(lease.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_the_entry_in_the_index_is_written_again(sh: Shell, redis: redis_py.Redis) -> None:
    """It is in another slot than the queue, so it can be lost alone; the next consumer brings it back."""
    q = sh.queue("orders")
    index = q.options.keys.queues
    await sh(q.put(1))
    assert redis.hdel(index, "orders") == 1
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert redis.hexists(index, "orders")
        await sh(lease.ack())


async def test_a_worker_finds_lists_that_nobody_registered(sh: Shell, redis: redis_py.Redis) -> None:
    """No reaper runs, no human looks: the search of a worker adopts the list, and its lease brings it back."""
    q = sh.queue(lease=1.0)
    keys = q.options.keys
    mid = await sh(q.put("stray"))
    redis.lmove(keys.ready, keys.doing("nobody"), "RIGHT", "RIGHT")
    seen: list[str] = []
    async with working(sh, q.ack(lambda body, lease: seen.append(lease.id))):
        assert await until(lambda: seen == [mid], seconds=12.0)


async def test_what_its_ghost_takes_after_a_goodbye_that_nobody_heard_comes_back(
    sh: Shell, proxy: FaultProxy, redis: redis_py.Redis
) -> None:
    """A consumer is cut off when it leaves, and its BLMOVE goes on: the registration stays, so a reaper comes."""
    q = sh.queue(url=proxy.url, lease=1.0, block=9.0, timeout=0.5)
    direct = sh.queue(lease=1.0)
    keys = q.options.keys
    consumer = q.consumer()
    assert await sh(consumer.claim(timeout=0)) == []
    hole = proxy.on("BLMOVE", action=black_hole("reply"), count=None)
    waiting = sh.start(consumer.claim, timeout=9)
    await asyncio.sleep(0.3)
    proxy.partition()
    await sh.close(consumer)
    await asyncio.gather(waiting, return_exceptions=True)
    hole.remove()
    assert redis.zscore(keys.consumers, consumer.name) is not None
    mid = await sh(direct.put("taken by a ghost"))
    assert await until(lambda: redis.llen(keys.ready) == 0, seconds=2.0), "the BLMOVE had ended"
    redis.hset(keys.stats, "server_since", 0)
    reaper = sh.Reaper(direct)
    for _ in range(50):
        if (await sh(reaper.run_once())).returned:
            break
        await asyncio.sleep(0.1)
    async with sh.open(direct.consumer()) as other:
        (lease,) = await sh(other.claim(timeout=5))
        assert (lease.id, lease.deliveries) == (mid, 1)
        await sh(lease.ack())
    proxy.heal(deliver=False)


# -- 9: names -----------------------------------------------------------------------------------------------


async def test_names_are_never_used_again(sh: Shell) -> None:
    """Host, pid and a random incarnation: the same process, opening again, is somebody else."""
    q = sh.queue()
    names = set()
    for _ in range(3):
        async with sh.open(q.consumer()) as c:
            assert await sh(c.claim(timeout=0)) == []
            names.add(c.name)
    assert len(names) == 3
    assert all(f"-{os.getpid()}-" in name for name in names)
    assert len({consumer_name() for _ in range(1000)}) == 1000


# -- 10: the server's clock jumps ---------------------------------------------------------------------------

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/stat.h>
/* While the named file exists, the time of day is an hour later. */
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  static int (*real)(struct timeval *, void *);
  struct stat found;
  if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
  int result = real(now, zone);
  if (stat(getenv("LATER"), &found) == 0) now->tv_sec += 3600;
  return result;
}
"""


@pytest.fixture(params=find_servers(), ids=lambda binary: binary.name)
def jumping(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """(server, file): its clock is an hour ahead as soon as the file exists."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler to make a clock that jumps")
    (tmp_path / "later.c").write_text(SHIM)
    library, later = tmp_path / "later.so", tmp_path / "later"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "later.c", "-ldl"], check=True)
    start = tmp_path / "redis-server"
    start.write_text(f'#!/bin/sh\nLD_PRELOAD={library} LATER={later} exec {request.param.path} "$@"\n')
    start.chmod(0o755)
    with RedisServer(ServerBinary(start, request.param.version, request.param.kind)) as running:
        yield running, later


def test_a_jump_of_the_servers_clock_ends_nobodys_lease(jumping: Any, prefix: str) -> None:
    """NTP puts Redis an hour ahead: all leases look over, and the living get one more to renew."""
    server, later = jumping
    with reliq.Queue("q", server.url, prefix=prefix, lease=3.0) as q:
        q.put(1)
        with q.consumer() as c:
            (lease,) = c.claim(timeout=5)
            with server.client() as client:
                client.hset(q.options.keys.stats, "server_since", 0)
                reaper = reliq.Reaper(q)
                assert reaper.run_once().consumers == []
                before = client.time()[0]
                later.touch()
                assert client.time()[0] - before >= 3600, "the clock did not jump"
            report = reaper.run_once()
            assert report.returned == 0
            lease.ack()


# -- 11: whom a supervisor renews for, and what its children do without it ----------------------------------


@pytest.mark.parametrize(
    ("silent", "stopped", "renewed"),
    [
        (1.0, False, False),  # it renews by itself
        (8.0, False, True),  # half a lease without a trip: a handler may hold the interpreter lock
        (defaults.GIL_CAP - 1, False, True),
        (defaults.GIL_CAP + 1, False, False),  # whatever that is, it is no handler at work
        (8.0, True, False),  # SIGSTOP: stopped is not alive
    ],
)
def test_a_silent_child_is_renewed_for_up_to_the_cap(
    server: Any, prefix: str, silent: float, stopped: bool, renewed: bool
) -> None:
    """The lease at the server tells: renewed or not."""
    with reliq.Queue("q", server.url, prefix=prefix) as queue, server.client() as client:
        keys, now = queue.options.keys, clock()
        made: Any = None
        supervisor = Supervisor(made, [(queue.ack(print), queue)], processes=1, slots=2, grace=1.0)
        [child] = supervisor._children
        assert isinstance(child, Child)
        child.pid, child.stopped = os.getpid(), stopped
        child.board.show_station(0, "somebody", 0, now - silent)
        client.zadd(keys.consumers, {"somebody": 1})
        supervisor._mind(child, now)
        assert (client.zscore(keys.consumers, "somebody") != 1) is renewed


TELL = """
import ctypes, os, sys, reliq
from reliq.sync.loop import Loop

work = Loop.run

def run(self):
    signal = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(signal))  # PR_GET_PDEATHSIG, of the main thread
    os.write(1, b"%d " % signal.value)
    return work(self)

Loop.run = run
queue = reliq.Queue("q", sys.argv[1], prefix=sys.argv[2])
reliq.Worker(queue.ack(print), processes=2, until_empty=True).run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
def test_the_kernel_tells_children_that_their_supervisor_is_gone(server: Any, prefix: str) -> None:
    """Besides the pipe: SIGTERM by PR_SET_PDEATHSIG, as the kernel says in both children."""
    run = subprocess.run([sys.executable, "-c", TELL, server.url, prefix], capture_output=True, timeout=60)
    assert run.stdout.split() == [b"%d" % signal.SIGTERM] * 2, run.stderr


# -- 13: identity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retry", "bury"])
async def test_equal_raw_messages_stay_two_in_a_sorted_set(sh: Shell, redis: redis_py.Redis, verb: str) -> None:
    """later and dead fold equal members, so raw bytes never get there: each goes in its own envelope."""
    q = sh.queue()
    keys = q.options.keys
    redis.lpush(keys.ready, b'"same"', b'"same"')
    async with sh.open(q.consumer(prefetch=2)) as c:
        leases = await sh(c.claim(2, timeout=5))
        assert [lease.body for lease in leases] == ["same", "same"]
        for lease in leases:
            await sh(lease.retry(60) if verb == "retry" else lease.bury("no"))
    members = redis.zrange(keys.later if verb == "retry" else keys.dead, 0, -1)
    elements = [member if verb == "retry" else env.split_note(member)[1] for member in members]
    assert len({env.unpack(element).id for element in elements}) == 2
