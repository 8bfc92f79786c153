"""reliq: an at-least-once reliable queue on Redis lists."""

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
from reliq.sync.consumer import Consumer
from reliq.sync.lease import Lease
from reliq.sync.queue import Queue
from reliq.sync.reaper import Reaper
from reliq.sync.worker import Worker

__version__ = "0.1.0"
__all__ = [
    "Bury",
    "Consumer",
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
