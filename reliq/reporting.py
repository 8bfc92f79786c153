"""What any consumer says of itself and of its process when it is asked from afar (``core.orders``)."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from reliq.core.message import Message
from reliq.core.orders import REPORT, InHand, Order, Report, bounded
from reliq.identity import clock

REFUSED: Final = (
    "it is a consumer that a program has opened, and claims when that program asks it to: stop the program"
)


class Orders:
    """The orders to the consumers of a process: each is taken once, however many trips return it."""

    def __init__(self) -> None:
        self._taken: dict[Any, str] = {}

    def take(self, consumer: Any, text: bytes, server_ms: int) -> Order | None:
        """What there is to do for this consumer now."""
        order = Order.parse(text)
        if order is None or order.until < server_ms or self._taken.get(consumer) == order.number:
            return None
        self._taken[consumer] = order.number
        return order

    def failed(self, consumer: Any, order: Order) -> None:
        """It could not be answered: the next trip returns it, and it is taken again."""
        if self._taken.get(consumer) == order.number:
            del self._taken[consumer]


def of_consumer(messages: Iterable[Message], waiting: int, order: Order, *, asked_at: float, at: int) -> Report:
    """How a consumer is that a program has opened; where that is with its messages, only the program knows.
    ``messages``: in its hands; ``waiting``: claimed, and not yet asked for."""
    mine = [InHand(message.id) for message in messages]
    return Report(
        **process(asked_at, at, clock()),
        working=len(mine),
        waiting=waiting,
        in_hand=bounded(mine, order.about),
        refused="" if order.verb == REPORT else REFUSED,
    )


def process(asked_at: float, at: int, now: float) -> dict[str, Any]:
    """What a report says of this process. ``asked_at``: when Redis was asked for the time, which is ``at``, ms;
    the answer was here ``now``."""
    return {
        "at": at,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": getattr(sys.modules.get("reliq"), "__version__", ""),
        "python": platform.python_version(),
        "rtt_us": round(max(0.0, now - asked_at) * 1e6),
        "rss": resident(),
    }


def resident() -> int | None:
    """Bytes of memory that this process has in RAM now, where the system tells."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
