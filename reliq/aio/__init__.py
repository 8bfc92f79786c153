"""The asyncio shell: the same names as ``reliq``, awaitable, over redis-py's asyncio connections."""

from reliq.aio.consumer import Consumer
from reliq.aio.lease import Lease
from reliq.aio.queue import Queue
from reliq.aio.reaper import Reaper
from reliq.aio.worker import Worker

__all__ = ["Consumer", "Lease", "Queue", "Reaper", "Worker"]
