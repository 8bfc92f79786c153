"""reliq: an at-least-once reliable queue on Redis lists."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from reliq import context as context
from reliq import logging as logging
from reliq.core.flows import ReapReport
from reliq.core.retry import Retry
from reliq.errors import (
    Bury,
    LeaseLost,
    OutcomeUnknown,
    QueueFull,
    Refused,
    Release,
    ReliqError,
    RetryAfter,
    Unavailable,
)
from reliq.sync.queue import Queue

if TYPE_CHECKING:
    from reliq.core.explain import Explanation
    from reliq.sync.consumer import Consumer
    from reliq.sync.lease import Lease
    from reliq.sync.reaper import Reaper
    from reliq.sync.worker import Worker

__version__ = "0.1.0"
__all__ = [
    "Bury",
    "Consumer",
    "Explanation",
    "Lease",
    "LeaseLost",
    "OutcomeUnknown",
    "Queue",
    "QueueFull",
    "ReapReport",
    "Reaper",
    "Refused",
    "Release",
    "ReliqError",
    "Retry",
    "RetryAfter",
    "Unavailable",
    "Worker",
]

#: A producer needs none of these, and pays for none of them when it starts.
_LATER: Final = {
    "Consumer": "reliq.sync.consumer",
    "Explanation": "reliq.core.explain",
    "Lease": "reliq.sync.lease",
    "Reaper": "reliq.sync.reaper",
    "Worker": "reliq.sync.worker",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
