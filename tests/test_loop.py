"""The loop of a blocking worker where nothing but itself can be seen: how it ends, what it shows and costs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Any

import msgpack
import pytest
import redis as redis_py

import reliq
import reliq.aio
from reliq.aio.loop import Loop as AioLoop
from reliq.core import envelope as env
from reliq.core.message import Message
from reliq.core.pace import Pace
from reliq.identity import clock
from reliq.running import Slot, ThreadExecutor
from reliq.sync.board import Board
from reliq.sync.loop import Loop
from reliq.working import Working
from tests.servers import RedisServer

OPTIONS: dict[str, Any] = {"concurrency": 2, "prefetch": 0, "grace": 5.0}


def until(holds: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_whatever_ends_the_loop_ends_its_handlers_threads_too(
    server: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KeyboardInterrupt in the loop, while threads that fetch their own work are at it: they stop, too."""
    queue = reliq.Queue("q", server.url, prefix=prefix)
    queue.put_many(range(3000))
    handled: list[int] = []

    def handle(body: int) -> None:
        handled.append(body)
        time.sleep(0.001)

    loop = Loop([(queue.ack(handle), queue)], **OPTIONS)
    sleep = loop._sleep

    def interrupted(now: float) -> None:
        if len(handled) > 50:
            raise KeyboardInterrupt
        sleep(now)

    monkeypatch.setattr(loop, "_sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    time.sleep(0.1)
    before = len(handled)
    time.sleep(0.3)
    assert len(handled) == before
    assert queue.size().doing == 0


def test_giving_back_to_a_redis_that_is_gone_is_no_hot_loop(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the timeout it tries again, but not as fast as it can."""
    queue = reliq.Queue("q", own_server.url, timeout=1.0)
    queue.put_many([1, 2])
    release = threading.Event()
    loop = Loop([(queue.ack(lambda body: release.wait(10)), queue)], **OPTIONS)
    thread = threading.Thread(target=loop.run)
    thread.start()
    until(lambda: queue.size().doing == 2)
    [station] = loop.stations
    trip, tries = station.engine.trip, []

    def counted(want: int, *, look: bool = True) -> Any:
        tries.append(want)
        return trip(want, look=look)

    own_server.kill()
    monkeypatch.setattr(station.engine, "trip", counted)
    loop.stop()
    loop.stop()
    thread.join(10)
    release.set()
    assert 2 <= len(tries) < 60


class _State:
    def __init__(self) -> None:
        self.is_fresh = False

    def fresh(self, now: float) -> bool:
        return self.is_fresh


def test_what_was_put_off_starts_when_its_lease_is_certain_again() -> None:
    """To hand it to a thread before that would bring it back at once, and again, for as long as Redis is away."""
    working: Working[Any] = Working(**OPTIONS)
    state: Any = _State()
    element = env.pack(bytes(16), msgpack.packb(1))
    kept, lost = (Message(element, 1, state) for _ in range(2))
    working.defer(kept)
    working.defer(lost)
    assert working.ready([]) == []
    assert working.look_in(0.0) is not None
    lost.lost = True
    assert working.ready([]) == []
    state.is_fresh = True
    assert working.ready([]) == [kept]
    assert working.look_in(0.0) is None


def test_plain_and_coroutine_handlers_share_no_slot_of_the_board(server: Any, prefix: str) -> None:
    """Or one would hide that the other has a message in hand, and its poison would never be counted."""
    release = threading.Event()
    queues = [reliq.Queue(name, server.url, prefix=prefix) for name in ("plain", "coroutine")]

    def plain(body: Any) -> None:
        release.wait(10)

    async def coroutine(body: Any) -> None:
        await __import__("asyncio").to_thread(release.wait, 10)

    board = Board(2 * 2, 2)
    loop = Loop([(queues[0].ack(plain), queues[0]), (queues[1].ack(coroutine), queues[1])], board=board, **OPTIONS)
    ids = {queue.put(1) for queue in queues}
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        until(lambda: len(board.slots()) == 2)
        assert {slot.id.hex() for slot in board.slots()} == ids
        assert {slot.station for slot in board.slots()} == {0, 1}
    finally:
        release.set()
        loop.stop()
        thread.join(10)


def test_a_board_takes_any_number_of_queues() -> None:
    """300 of them: no one's name lies on another's handlers."""
    board = Board(2, 300)
    board.start(0, 299, bytes(16), clock(), None)
    for number in range(300):
        board.show_station(number, f"name-{number}", number, 1.0)
    assert len(board.stations()) == 300
    assert [slot.station for slot in board.slots()] == [299]


def test_the_board_knows_the_name_before_the_first_trip(
    server: Any, prefix: str, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may claim already; if the process dies before the answer, its supervisor knows where to look."""
    queue = reliq.Queue("q", server.url, prefix=prefix)
    board, seen = Board(2, 1), []
    loop = Loop([(queue.ack(print), queue)], board=board, **OPTIONS)
    monkeypatch.setattr(loop, "_turn", lambda: (seen.append(board.stations()), loop.begin_to_leave(0)))
    loop.run()
    assert seen[0][0].consumer == loop.stations[0].state.name
    assert board.stations() == {}


def test_what_comes_after_the_stop_goes_back(server: Any, prefix: str) -> None:
    """A trip was under way when the worker was told to stop: no handler begins on what it brings."""
    queue, handled = reliq.Queue("q", server.url, prefix=prefix), list[int]()
    loop = Loop([(queue.ack(handled.append), queue)], **OPTIONS)
    loop._open()
    queue.put_many([1, 2, 3])
    [station] = loop.stations
    station.engine.begin(2)
    loop.stop()
    loop._turn()
    while not loop.is_over(at_work=any(e.at_work for e in loop._executors.values())):
        loop._turn()
    assert loop._close()
    assert (handled, queue.size()) == ([], (3, 0, 0, 0))


async def test_what_comes_after_the_stop_goes_back_in_asyncio(server: Any, prefix: str) -> None:
    """The same."""
    queue, handled = reliq.aio.Queue("q", server.url, prefix=prefix), list[int]()
    loop = AioLoop([(queue.ack(handled.append), queue)], **OPTIONS)
    await loop._open()
    await queue.put_many([1, 2, 3])
    [station] = loop.stations
    await station.engine.begin(2)
    loop.stop()
    await loop._turn()
    while not loop.is_over(at_work=any(e.at_work for e in loop._executors.values())):
        await loop._turn()
    await loop._close()
    assert (handled, await queue.size()) == ([], (3, 0, 0, 0))
    await queue.aclose()


@pytest.mark.parametrize(("ready", "streams"), [(64, True), (63, False)])
def test_a_stream_is_asked_for_more_before_it_is_handled(
    server: Any, prefix: str, *, ready: int, streams: bool
) -> None:
    """A trip that leaves nothing ready, but brings much: the next one is under way while that is handled."""
    queue = reliq.Queue("q", server.url, prefix=prefix)
    queue.put_many(range(ready))
    loop = Loop([(queue.ack(lambda body: None), queue)], concurrency=8, prefetch=1000, grace=5.0)
    loop._open()
    loop.pace.ran(0.00001)
    station = loop.stations[0]
    answer = station.trip(200, lambda: loop.ahead(station))
    assert answer is not None
    assert (len(answer.messages), answer.more) == (ready, False)
    assert station.state.unanswered is streams
    loop._close()


def test_single_messages_do_not_wake_the_loop_each(server: Any, prefix: str) -> None:
    """It looks around by itself soon enough for the case that one of these quick handlers takes long."""
    queue, ahead = reliq.Queue("q", server.url, prefix=prefix), list[float]()
    loop = Loop([(queue.ack(lambda body: ahead.append(loop._looks_at - clock())), queue)], **OPTIONS)
    loop.pace.ran(0.00001)
    thread = threading.Thread(target=loop.run)
    thread.start()
    for n in range(30):
        queue.put(n)
        until(lambda n=n: len(ahead) == n + 1)
    loop.stop()
    thread.join()
    assert max(ahead[5:]) <= 0.1


def test_a_handler_that_returns_as_it_is_found_stuck_takes_no_other_along(
    server: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread has the next message in hand already when the watch settles the first one: the outcome of that
    next one counts."""
    queue, first, second = reliq.Queue("q", server.url, prefix=prefix), threading.Event(), threading.Event()

    def handle(body: int) -> None:
        (first if body == 1 else second).wait(10)

    loop = Loop([(queue.ack(handle, timeout=0.3), queue)], board=Board(1, 1), concurrency=1, prefetch=0, grace=5.0)
    stack = Slot.stack

    def slowly(slot: Slot) -> str:
        first.set()
        until(lambda: slot.message is not None and slot.message.body == 2)
        return stack(slot)

    monkeypatch.setattr(Slot, "stack", slowly)
    queue.put_many([1, 2])
    monkeypatch.setattr(loop, "retire", lambda: second.set())
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        until(lambda: queue.size() == (0, 0, 0, 0))
    finally:
        second.set()
        loop.stop()
        thread.join(10)


async def test_who_is_cut_off_by_the_end_has_not_failed(
    server: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Coroutines of two queues are cancelled at the second stop: both messages go back, though it was the last
    attempt, and nothing is said of a failure or of a late settle."""
    queues = [reliq.aio.Queue(name, server.url, prefix=prefix, retry=reliq.Retry(attempts=1)) for name in "ab"]
    started, both = list[int](), asyncio.Event()

    async def handle(body: int) -> None:
        started.append(body)
        if len(started) == 2:
            both.set()
        await asyncio.sleep(60)

    for queue in queues:
        await queue.put(1)
    worker = reliq.aio.Worker(*(queue.ack(handle) for queue in queues))
    task = asyncio.create_task(worker.run())
    await both.wait()
    worker.stop()
    worker.stop()
    await task
    assert [tuple(await queue.size()) for queue in queues] == [(1, 0, 0, 0)] * 2
    assert [record.getMessage() for record in caplog.records if "did not end" not in record.getMessage()] == []
    for queue in queues:
        await queue.aclose()


class _Held(SimpleQueue[bool]):
    """Calls that do not arrive yet."""

    def __init__(self) -> None:
        self.arrive = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> bool:
        self.arrive.wait(10)
        return super().get(block, timeout)


def test_a_thread_that_was_called_is_at_work() -> None:
    """Before it has come round to its message, too: or the loop would end, and give back what is then handled."""
    executor: ThreadExecutor[Any] = ThreadExecutor(
        Pace(1), print, print, refill=lambda: False, rested=lambda: None, waiting=deque()
    )
    executor._tokens = held = _Held()
    message: Any = object()
    executor.submit([message])
    assert executor.at_work
    executor.take_waiting()
    held.arrive.set()
    until(lambda: not executor.at_work)
    executor.close()
