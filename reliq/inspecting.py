"""What a worker says of itself when it is asked from afar (``core.orders``), down to the line where a handler is.

The same in both shells; no I/O and no waiting in here.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import is_
from pathlib import Path
from types import FrameType
from typing import Any, Final

from reliq import defaults
from reliq.batching import each_of
from reliq.core.message import Message
from reliq.core.orders import QUIET, STACKS, STOP, InHand, Order, Report, bounded
from reliq.identity import clock
from reliq.logging import about, log
from reliq.reporting import process
from reliq.running import CoroutineExecutor, Slot
from reliq.working import Stationed, Working

#: Files that stand between a thread or a task and the handler.
_OURS: Final = (
    str(Path(__file__).parent) + os.sep,
    threading.__file__,
    str(Path(asyncio.__file__).parent) + os.sep,
)
_LOOKS: Final = 5
#: Seconds between two looks for handlers that take longer than expected.
_BETWEEN: Final = 0.25


def obey(working: Working[Any], order: Order) -> None:
    """What has to be so before the order is answered."""
    if order.verb == QUIET:
        working.be_quiet()
        log.warning("told from afar to claim no more")
    elif order.verb == STOP:
        log.warning("told from afar to stop")


def of_worker(
    working: Working[Any], station: Stationed, slots: Iterable[Slot], order: Order, *, asked_at: float, at: int
) -> Report:
    """How a worker and its process are. ``asked_at``: when Redis was asked for the time, which is ``at``, ms."""
    now, mine = clock(), []
    for slot in slots:
        message, started_at = slot.message, slot.started_at
        if message is None or message.state is not station.state or message is slot.failed:
            continue
        stack = stack_of(slot) if _wanted(order, message) else None
        if slot.message is message:  # else it has just ended, and the stack is another's
            took, handler = max(0.0, now - started_at), station.handler_of(message)
            usual = min(handler.expected, handler.timeout or math.inf)
            since = at - round(took * 1000)
            mine += [InHand(each.id, since, stack, took > usual) for each in each_of(message)]
    return Report(
        **process(asked_at, at, now),
        handler=station.handler.name,
        concurrency=working.pace.concurrency,
        working=len(mine),
        waiting=max(0, station.in_hand - len(mine)),
        in_hand=bounded(mine, order.about),
        quiet=working.is_quiet,
        stopping=working.leave_by is not None or order.verb == STOP,
    )


def _wanted(order: Order, message: Message) -> bool:
    return order.about == STACKS or any(order.about == each.id for each in each_of(message))


class SlowWatch:
    """Tells once of a handler that has passed the time it is expected to take, with its stack; it goes on."""

    def __init__(self) -> None:
        self._look_at = 0.0

    def look(self, slots: Iterable[Slot], now: float) -> None:
        """Now and then; as often as one likes."""
        if now < self._look_at:
            return
        self._look_at = now + _BETWEEN
        for slot in slots:
            if slot.passes_expected(now) and (message := slot.slow) is not None:
                handler, stack = message.state.owner.handler_of(message), stack_of(slot)
                if slot.message is message:  # else it has just ended
                    log.warning(
                        "handler %s has message %s in hand for %.1f s, and is expected to take %s s (expected=). "
                        "It goes on. It is here:\n%s",
                        handler.name, message.id, now - slot.started_at, handler.expected, stack,
                        extra=about(message),
                    )  # fmt: skip


# -- stacks -------------------------------------------------------------------------------------------------


def stack_of(slot: Slot) -> str:
    """Where the handler is at this moment, from its own first line on; a coroutine through all that it awaits."""
    task = slot.task
    if task is not None:
        frames = list(_awaited(task.get_coro()))
    else:  # a thread; or a coroutine that has never waited, whose task is only being made
        frames = _frames(slot.thread) or _running(lambda frame: _is_of(frame, slot))
    return "".join(traceback.format_list(_summary(frames)))[-defaults.TRACEBACK :]


def _frames(thread: int) -> list[FrameType]:
    """The frames of a thread, the outermost first. It goes on meanwhile, and a frame that has just ended leads to
    none of the others: so the longest of some looks counts."""
    return max((_look(thread) for _ in range(_LOOKS)), key=len)


def _look(thread: int) -> list[FrameType]:
    frame = sys._current_frames().get(thread)
    return [] if frame is None else [found for found, _ in traceback.walk_stack(frame)][::-1]


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it awaits; of one that runs at this moment, those of its thread."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            return
        if coroutine.cr_running:
            yield from _running(partial(is_, frame))
            return
        yield frame
        coroutine = coroutine.cr_await
        # Before Python 3.12 wait_for() makes a task of what it waits for, and only its frame knows which.
        if getattr(coroutine, "cr_frame", None) is None and isinstance(
            task := frame.f_locals.get("fut"), asyncio.Task
        ):
            coroutine = task.get_coro()


def _is_of(frame: FrameType, slot: Slot) -> bool:
    return frame.f_code is CoroutineExecutor._run.__code__ and frame.f_locals.get("slot") is slot


def _running(begins: Callable[[FrameType], bool]) -> list[FrameType]:
    """The innermost part of that thread's stack that begins with such a frame."""
    for thread in sys._current_frames():
        frames = _frames(thread)
        for place in range(len(frames) - 1, -1, -1):
            if begins(frames[place]):
                return frames[place:]
    return []


def _summary(frames: list[FrameType]) -> traceback.StackSummary:
    """Without the frames of ours that have called the handler."""
    first = next((n for n, f in enumerate(frames) if not f.f_code.co_filename.startswith(_OURS)), 0)
    return traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames[first:])
