"""The asyncio shell: the same names as ``reliq``, awaitable, over redis-py's asyncio connections."""

from reliq.aio.consumer import Consumer
from reliq.aio.exclusive import Batch, Exclusive
from reliq.aio.lease import Lease
from reliq.aio.queue import Queue
from reliq.aio.reaper import Reaper
from reliq.aio.scheduler import Scheduler
from reliq.aio.worker import Worker

__all__ = ["Batch", "Consumer", "Exclusive", "Lease", "Queue", "Reaper", "Scheduler", "Worker"]
