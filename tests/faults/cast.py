"""Who plays in a round: real workers, producers and reapers, each in a process of its own that records itself.

Started as ``python -m tests.faults.program`` with one JSON argument that has a "role". Settings of all roles:
url, prefix, queue (options), history and effects (paths), skew (hours by which this process is wrong about the
time), break (a deliberately broken build, see breaks.py). Every one ends in good order on SIGTERM.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import reliq
from reliq import aio, context
from reliq.errors import PutManyError, ReliqError
from tests.faults import breaks
from tests.faults.history import Effects, History, record

Settings = dict[str, Any]


def play(settings: Settings) -> None:
    """The whole life of one process."""
    _end_with_the_round()
    if hours := settings.get("skew"):
        _skew(hours * 3600)
    if name := settings.get("break"):
        breaks.apply(name)
    history = History(Path(settings["history"]))
    record(history)
    {"worker": _work, "producer": _produce, "reaper": _reap}[settings["role"]](settings, history)


def _end_with_the_round() -> None:
    """A round that is killed leaves no worker behind, where the kernel can see to that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; a forked child does not inherit it


def _skew(seconds: float) -> None:
    """This process is wrong about the time of day. Its monotonic clock goes on as it should."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1e9)


# -- workers ------------------------------------------------------------------------------------------------


def _work(settings: Settings, history: History) -> None:
    """shell "threads", "coroutines" (reliq.Worker with either kind of handler) or "aio" (aio.Worker)."""
    effects = Effects(Path(settings["effects"]))
    shell = settings.get("shell", "threads")
    kind = aio.Queue if shell == "aio" else reliq.Queue
    queue: Any = kind("work", settings["url"], prefix=settings["prefix"], **settings["queue"])

    def begin(body: Any, lease: Any) -> float:
        current = context.current()
        consumer = current.consumer if current else ""
        counted = {"attempt": lease.attempt, "fence": lease.fence, "deliveries": lease.deliveries}
        history.note("deliver", "ok", id=lease.id, n=body["n"], do=body.get("do"), consumer=consumer, **counted)
        return float(body["ms"]) / 1000

    def end(body: Any, lease: Any) -> None:
        _do(body.get("do"), lease)
        effects.add(lease.id, lease.fence, body["n"])

    def handle(body: Any, lease: Any) -> None:
        time.sleep(begin(body, lease))
        end(body, lease)

    async def handle_async(body: Any, lease: Any) -> None:
        await asyncio.sleep(begin(body, lease))
        end(body, lease)

    def handle_body(body: Any) -> None:
        handle(body, _in_hand())

    async def handle_body_async(body: Any) -> None:
        await handle_async(body, _in_hand())

    kinds = {(True, True): handle, (True, False): handle_body, (False, True): handle_async}
    function: Any = kinds.get((shell == "threads", settings.get("takes_lease", True)), handle_body_async)
    handler = queue.ack(function, retry=reliq.Retry(attempts=3, wait=lambda state: 0.05))
    options = {"grace": 5.0, "concurrency": 4} | settings.get("worker", {})

    def run() -> None:
        if shell == "aio":
            asyncio.run(aio.Worker(handler, **options).run())
        elif settings.get("supervise"):
            reliq.Worker(handler, **options).supervise()
        else:
            reliq.Worker(handler, **options).run()

    _as_a_service(run)


def _in_hand() -> Any:
    """What a lease would say to a handler that takes none: the envelope does too."""
    message: Any = context._innermost.get()
    e = message.envelope
    return SimpleNamespace(id=message.id, attempt=e.attempt, fence=e.fence, deliveries=e.deliveries)


def _as_a_service(run: Callable[[], None]) -> None:
    """A worker says at once if Redis does not answer when it starts; then whoever runs it starts it again."""
    for _ in range(200):
        try:
            run()
            return
        except (reliq.Unavailable, reliq.OutcomeUnknown) as error:
            logging.warning("not started: %s", error)
            time.sleep(0.1)
    raise SystemExit("Redis did not answer in 200 tries")


def _do(deed: str | None, lease: Any) -> None:
    """What some messages make of their handlers."""
    if deed == "fail" and lease.attempt == 1:
        raise RuntimeError("fails the first time")
    if deed == "release" and lease.deliveries == 1:
        raise reliq.Release("not now")
    if deed == "bury":
        raise reliq.Bury("of no use")
    if deed == "segfault":
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(5)


# -- producers ----------------------------------------------------------------------------------------------


def _produce(settings: Settings, history: History) -> None:
    """Puts of every kind, ``every`` seconds apart, until SIGTERM or ``most`` puts. What was unknown is
    repeated or left alone, as chance has it."""
    told: list[int] = []  # not an Event: its lock may be held by the very thread that takes the signal
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    logging.info("producer started")
    queue = reliq.Queue("work", settings["url"], prefix=settings["prefix"], **settings["queue"])
    producer = _Producer(queue, settings)
    for _ in range(settings.get("most", 100_000)):
        if told:
            break
        try:
            producer.put()
        except ReliqError as error:
            logging.info("put: %s", error)
            time.sleep(0.02)
        time.sleep(settings["every"])


class _Producer:
    def __init__(self, queue: reliq.Queue, settings: Settings) -> None:
        self.queue = queue
        self.chance = random.Random(settings["seed"])
        self.number = settings["first"]
        self.deeds: dict[str, float] = settings.get("deeds", {})
        self.ms: list[int] = settings["ms"]
        self.fill = settings.get("fill", 0)
        self.plain = settings.get("plain", False)
        self.confirm = {"replicas": settings["replicas"]} if "replicas" in settings else {}
        self.own_id = ""

    def body(self) -> dict[str, Any]:
        self.number += 1
        body: dict[str, Any] = {"n": self.number, "ms": self.chance.randint(*self.ms)}
        dice = self.chance.random()
        for deed, share in self.deeds.items():
            if dice < share:
                return body | {"do": deed}
            dice -= share
        return body | ({"fill": "x" * self.fill} if self.fill else {})

    def put(self) -> None:
        kind = "one" if self.plain else self.chance.choice(["one"] * 6 + ["many", "later", "own id", "same id"])
        try:
            if kind == "many":
                self.queue.put_many([self.body() for _ in range(self.chance.randint(2, 5))], **self.confirm)
            elif kind == "later":
                self.queue.put(self.body(), delay=0.1, **self.confirm)
            elif kind == "own id" or (kind == "same id" and not self.own_id):
                self.own_id = f"own-{self.number}"
                self.queue.put(self.body(), id=self.own_id, **self.confirm)
            elif kind == "same id":  # accepted before, by the same words: no second copy
                self.queue.put(self.body(), id=self.own_id, **self.confirm)
            else:
                self.queue.put(self.body(), **self.confirm)
        except (reliq.OutcomeUnknown, PutManyError) as error:
            self.repeat(error)

    def repeat(self, error: reliq.OutcomeUnknown | PutManyError) -> None:
        if error.replay is None or self.chance.random() < 0.3:
            return
        for _ in range(5):
            try:
                self.queue.repeat(error)
                return
            except ReliqError:
                time.sleep(0.05)


# -- reapers ------------------------------------------------------------------------------------------------


def _reap(settings: Settings, history: History) -> None:
    queue = reliq.Queue("work", settings["url"], prefix=settings["prefix"], **settings["queue"])
    reaper = reliq.Reaper(queue, interval=settings.get("every", 0.1))
    signal.signal(signal.SIGTERM, lambda number, frame: reaper.stop())
    logging.info("reaper started")
    reaper.run()
