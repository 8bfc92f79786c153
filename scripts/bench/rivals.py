"""Peers at work, each as its documentation says and with its defaults.

``python rivals.py NAME URL N`` enqueues N no-op messages, drains them in this process, and prints messages per
second, from the start of its worker to the last of them. It runs in an environment of its own, with any of them in
it, and imports nothing of ours. Exit status 3: not installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

#: Seconds within which a drain has to end.
_PATIENCE = 120


class Left:
    """Counts messages down; ``wait`` returns when the last of them was handled."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._lock = threading.Lock()
        self._done = threading.Event()

    def count(self) -> None:
        """One more was handled."""
        with self._lock:
            self._n -= 1
            if self._n == 0:
                self._done.set()

    @property
    def is_over(self) -> bool:
        """Whether all were."""
        return self._done.is_set()

    def wait(self) -> None:
        """Until then."""
        if not self._done.wait(_PATIENCE):
            raise TimeoutError("it did not finish")


def dramatiq(url: str, n: int, threads: int = 8) -> float:
    """8 threads, as is the default, or another number; Redis broker."""
    import dramatiq as lib
    from dramatiq.brokers.redis import RedisBroker

    broker, left = RedisBroker(url=url), Left(n)
    lib.set_broker(broker)

    def noop(number: int) -> None:
        left.count()

    actor = lib.actor(noop, broker=broker)
    for i in range(n):
        actor.send(i)
    worker = lib.Worker(broker, worker_threads=threads)
    started = time.perf_counter()
    worker.start()
    left.wait()
    seconds = time.perf_counter() - started
    worker.stop()
    return n / seconds


def celery(url: str, n: int) -> float:
    """Its pool of threads, 8 of them, so that it counts in this process; results are ignored."""
    from celery import Celery
    from celery.contrib.testing.worker import start_worker

    app, left = Celery("rivals", broker=url), Left(n)
    app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)

    @app.task(name="noop")  # type: ignore[untyped-decorator]
    def noop(number: int) -> None:
        left.count()

    for i in range(n):
        noop.delay(i)
    started = time.perf_counter()
    with start_worker(app, pool="threads", concurrency=8, perform_ping_check=False, loglevel="ERROR"):
        left.wait()
        seconds = time.perf_counter() - started
    return n / seconds


def rq(url: str, n: int) -> float:
    """Its SimpleWorker, which does not fork for each job."""
    import redis
    import rq as lib

    connection: Any = redis.Redis.from_url(url)
    queue = lib.Queue(connection=connection)
    for i in range(n):
        queue.enqueue(abs, i, result_ttl=0)
    logging.disable(logging.CRITICAL)
    started = time.perf_counter()
    lib.SimpleWorker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
    return n / (time.perf_counter() - started)


def saq(url: str, n: int) -> float:
    """Coroutines, 10 at once, as is its default."""
    from saq import Queue, Worker

    left = Left(n)

    async def noop(context: Any, *, number: int) -> None:
        left.count()

    async def run() -> float:
        queue = Queue.from_url(url)
        await queue.connect()
        for i in range(n):
            await queue.enqueue("noop", number=i)
        worker: Any = Worker(queue, functions=[("noop", noop)])
        started = time.perf_counter()
        seconds = await _until_over(worker.start(), left, started)
        await worker.stop()
        await queue.disconnect()
        return n / seconds

    return asyncio.run(run())


def arq(url: str, n: int) -> float:
    """Coroutines, 10 at once, as is its default."""
    from arq import create_pool
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    async def noop(context: Any, number: int) -> None:
        return None

    async def run() -> float:
        settings = RedisSettings.from_dsn(url)
        pool = await create_pool(settings)
        for i in range(n):
            await pool.enqueue_job("noop", i)
        functions = [func(noop, name="noop", keep_result=0)]
        worker: Any = Worker(functions, redis_settings=settings, burst=True, poll_delay=0.01, handle_signals=False)
        started = time.perf_counter()
        await worker.main()
        return n / (time.perf_counter() - started)

    return asyncio.run(run())


def taskiq(url: str, n: int) -> float:
    """Coroutines; a list as the broker, without results."""
    from taskiq.api import run_receiver_task
    from taskiq_redis import ListQueueBroker

    left = Left(n)

    async def run() -> float:
        broker: Any = ListQueueBroker(url)

        @broker.task  # type: ignore[untyped-decorator]
        async def noop(number: int) -> None:
            left.count()

        await broker.startup()
        for i in range(n):
            await noop.kiq(i)
        started = time.perf_counter()
        seconds = await _until_over(run_receiver_task(broker), left, started)
        await broker.shutdown()
        return n / seconds

    return asyncio.run(run())


async def _until_over(work: Any, left: Left, started: float) -> float:
    """Seconds until the last message was handled; then the work is cancelled."""
    task = asyncio.ensure_future(work)
    while not left.is_over:
        if task.done():
            task.result()
        if time.perf_counter() - started > _PATIENCE:
            raise TimeoutError("it did not finish")
        await asyncio.sleep(0.002)
    seconds = time.perf_counter() - started
    task.cancel()
    await asyncio.wait([task], timeout=5)
    return seconds


#: By name: what is to be installed, how many messages make some seconds, what runs them.
RIVALS: dict[str, tuple[str, int, Callable[[str, int], float]]] = {
    "dramatiq": ("dramatiq", 6000, dramatiq),
    "dramatiq, 1 thread": ("dramatiq", 6000, partial(dramatiq, threads=1)),
    "celery": ("celery", 2000, celery),
    "rq": ("rq", 500, rq),
    "saq": ("saq", 2000, saq),
    "arq": ("arq", 2000, arq),
    "taskiq": ("taskiq_redis", 4000, taskiq),
}

if __name__ == "__main__":
    module, _, drain = RIVALS[sys.argv[1]]
    if importlib.util.find_spec(module) is None:
        sys.exit(3)
    print(drain(sys.argv[2], int(sys.argv[3])))
