"""Where a visit takes place: one Redis, a prefix of its own, own processes; and nothing of it stays."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar

from reliq import defaults
from reliq.core import ledger, ops
from reliq.core.command import Command
from reliq.core.doctor import Place, ServerFacts, server_facts_g
from reliq.core.keys import Keys
from reliq.core.topology import SLOTS, Node, slot_of
from reliq.errors import AccessDenied, ReliqError
from reliq.settings import Settings
from reliq.sync.connection import Links
from reliq.sync.consumer import Consumer
from reliq.sync.queue import Queue
from reliq.verify.child import Child
from reliq.verify.effects import Effects
from reliq.verify.finding import Broken, Cannot
from reliq.verify.mishap import MishandledLinks, Mishaps

T = TypeVar("T")
#: Seconds to look for keys of ours at the end; 1,000 keys of anybody take about 0.3 ms.
SCAN_SECONDS: Final = 10.0
_BLOCK: Final = 1.0
_POLL: Final = 0.01
#: A check that waits for so many seconds, and for so many round trips, has waited for what does not come.
_PATIENCE, _PATIENCE_TRIPS = 15.0, 60
#: What this machine may take for itself, beyond a promise that counts in milliseconds or seconds.
_SLACK: Final = 1.0


class Removal(NamedTuple):
    """What became of our keys: how many were removed, and why some may be left (empty: none is)."""

    pattern: str
    keys: int
    problem: str = ""

    def __str__(self) -> str:
        if not self.problem:
            return f"all {self.keys} keys of this run are removed"
        by_hand = f"redis-cli --scan --pattern '{self.pattern}' | xargs -r redis-cli del"
        return f"keys of this run may be left ({self.problem}); to remove them: {by_hand}"


class Site:
    """A context manager: leaving it ends our processes and removes our keys; ``removal`` says what came of that.

    ``prefix``: of the user; ours is below it, so that an ACL for the one is one for the other. ``seconds``: about
    how long the whole visit may take; ``lease``: the shortest lease of the user's queues, seconds.
    """

    def __init__(self, url: str, *, prefix: str, seconds: float, lease: float = defaults.LEASE) -> None:
        self.url, self.seconds, self.users_lease = url, seconds, lease
        self.users_prefix, self.prefix = prefix, f"{prefix}:verify-{secrets.token_hex(4)}"
        self.links = Links(lambda: Settings.chosen(url, None), keys=Keys("verify", self.prefix))
        self.rtt = 0.0
        self.version = ""
        self.removal = Removal(self.pattern, 0)
        self._queues: dict[str, Queue] = {}
        self._opened: list[Queue] = []
        self._children: list[Child] = []

    @property
    def pattern(self) -> str:
        """Of all our keys, for SCAN."""
        return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in self.prefix) + ":*"

    def __enter__(self) -> Site:
        self.version = self.ping()
        self.rtt = sorted(self.round_trip() for _ in range(5))[2]
        self._scratch = Path(tempfile.mkdtemp(prefix="reliq-verify-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.removal = Removal(self.pattern, 0, "interrupted")
        try:
            for child in self._children:
                child.end()
            shutil.rmtree(self._scratch, ignore_errors=True)
            self.removal = self._remove()
        finally:
            for queue in self._opened:
                queue.close()
            self.links.close()

    # -- what a check works with ------------------------------------------------------------------------

    def ping(self) -> str:
        """The server's version; raises if it does not answer."""
        self.links.insist(ops.server_time())
        return str(self.links.server.version)

    def incarnation(self) -> str:
        """Which server process answers; raises if none does."""
        self.ping()
        return str(self.links.server.run_id)

    def round_trip(self) -> float:
        """Seconds of one."""
        started = time.perf_counter()
        self.links.insist(ops.server_time())
        return time.perf_counter() - started

    @property
    def short_lease(self) -> float:
        """Seconds: short enough to wait for its end, long enough to be renewed over this way to Redis."""
        return max(1.2, 12 * self.rtt)

    def queue(self, name: str, *, mishaps: Mishaps | None = None, **options: Any) -> Queue:
        """A queue of ours; with ``mishaps`` its connections meet them. Options are those of Queue."""
        usual = {"block": _BLOCK, "timeout": defaults.TIMEOUT}
        queue = Queue(name, self.url, prefix=self.prefix, **{**usual, **options})
        if mishaps is not None:
            queue.links = MishandledLinks(mishaps, lambda: queue.settings, keys=queue.options.keys)
        self._queues.setdefault(name, queue)
        self._opened.append(queue)
        return queue

    @contextmanager
    def puppet(self, queue: Queue) -> Iterator[Child]:
        """A consumer of this queue in a process of its own."""
        with self._child(queue, worker=None, effects="") as child:
            yield child

    @contextmanager
    def worker(self, queue: Queue, **options: Any) -> Iterator[tuple[Child, Effects]]:
        """A supervised worker of this queue, and what its handlers do. Options are those of Worker."""
        effects = Effects(self._scratch / f"{queue.name}-{len(self._children)}.effects")
        with self._child(queue, worker=options, effects=str(effects.path)) as child:
            yield child, effects

    @contextmanager
    def _child(self, queue: Queue, **settings: Any) -> Iterator[Child]:
        options = {"lease": queue.options.lease, "block": _BLOCK, "max_losses": queue.options.max_losses}
        settings |= {"queue": queue.name, "prefix": self.prefix, "options": options}
        settings["seconds"] = round(3 * self.seconds + 60)
        log = self._scratch / f"{queue.name}-{len(self._children)}.log"
        child = Child(self.url, settings, log)
        self._children.append(child)
        try:
            yield child
        finally:
            child.end()

    def rounds(self, share: float) -> Iterator[int]:
        """Numbers from 1 for this share of the visit's time, at least one."""
        until, number = time.monotonic() + share * self.seconds, 1
        yield number
        while time.monotonic() < until:
            number += 1
            yield number

    def until(self, holds: Callable[[], T], what: str) -> T:
        """Wait for a condition and return its value; Broken if it does not come."""
        deadline = time.monotonic() + _PATIENCE + _PATIENCE_TRIPS * self.rtt
        while not (value := holds()):
            if time.monotonic() > deadline:
                raise Broken(f"not within {_PATIENCE + _PATIENCE_TRIPS * self.rtt:.0f} s: {what}")
            time.sleep(_POLL)
        return value

    def settle_all(self, consumer: Consumer, number: int) -> list[Any]:
        """Claim and ack so many messages; their bodies in the order of the claims. Broken if they do not come."""
        bodies: list[Any] = []
        while len(bodies) < number:
            leases = consumer.claim(number - len(bodies), timeout=_PATIENCE)
            if not leases:
                raise Broken(f"{number - len(bodies)} of {number} messages did not come within {_PATIENCE:.0f} s")
            for lease in leases:
                bodies.append(lease.body)
                lease.ack()
        return bodies

    def in_time(self, took: float, promised: float, what: str) -> str:
        """How long it took, in words; Cannot if it was later than promised. ``took`` and ``promised``: seconds."""
        text = f"{what} after {took:.3f} s"
        if took > promised + _SLACK + 10 * self.rtt:
            raise Cannot(
                f"{text}, not {promised:.3g} s: this machine or the way to Redis is too slow for it just now",
                "run it again when there is less other work, or from a host nearer to Redis",
            )
        return text

    def events(self, queue: Queue, since: int) -> list[dict[str, Any]]:
        """The ledger of a queue since this time (server ms); empty if this user may not read it."""
        command = Command("XRANGE", (queue.options.keys.events,), (since, "+"), idempotent=True)
        try:
            found = queue.links.insist(command)
        except AccessDenied:
            return []
        return list(ledger.read(found))

    # -- the servers ------------------------------------------------------------------------------------

    @cached_property
    def servers(self) -> dict[str, tuple[ServerFacts, Queue]]:
        """What is known of every server that holds keys, and a queue of ours there."""
        return {where: (self._facts(where, queue), queue) for where, queue in self._on_each().items()}

    def _facts(self, where: str, queue: Queue) -> ServerFacts:
        address, keys = self.links.address, queue.options.keys
        place = Place(where, address.kind == "unix", bool(address.master), int(address.kwargs.get("db", 0)))
        flow = server_facts_g(place, queue.links.server, keys, time.monotonic, time.time)
        return queue.links.flow(flow)

    def _on_each(self) -> dict[str, Queue]:
        """A queue of ours on every server that holds keys, by its address; outside of a Cluster there is one."""
        if not self.links.server.cluster:
            return {self.links.address.label: self._on_slots(0, SLOTS)}
        found: dict[str, Queue] = {}
        for first, last, primary, *_ in self.links.insist(Command("CLUSTER SLOTS", (), idempotent=True)):
            node = str(Node(primary[0].decode(), int(primary[1])))
            if node not in found:
                found[node] = self._on_slots(int(first), int(last))
        return found

    def _on_slots(self, first: int, last: int) -> Queue:
        """A queue whose slot is one of these."""
        name = next(name for name in map("server-{}".format, count()) if first <= slot_of(f"{{{name}}}") <= last)
        return self._queues.get(name) or self.queue(name)

    # -- the end ----------------------------------------------------------------------------------------

    def _remove(self) -> Removal:
        """First what we know by name, then what a search finds."""
        removed, problem = 0, ""
        try:
            removed = sum(self._delete(queue.options.keys) for queue in self._queues.values())
            for queue in self._on_each().values():
                found, whole = self._search(queue.links)
                removed += found
                problem = problem or ("" if whole else f"not all keys were searched in {SCAN_SECONDS:.0f} s")
        except ReliqError as error:
            problem = str(error)
        return Removal(self.pattern, removed, problem)

    def _delete(self, keys: Keys) -> int:
        links = self.links.of(keys)
        names = [name for name, _ in links.insist(ops.consumers(keys))]
        mine = [k(name) for name in names for k in (keys.inbox, keys.doing, keys.session)]
        mine += [keys.ready, keys.later, keys.dead, keys.consumers]
        mine += [keys.events, keys.traces, keys.stats, keys.lock, keys.producers, keys.schedules, keys.ticks]
        return sum(self._drop(links, key) for key in (*mine, keys.queues))

    @staticmethod
    def _drop(links: Links, key: str | bytes) -> int:
        name = key if isinstance(key, str) else key.decode("utf-8", "surrogateescape")
        return int(links.insist(Command("DEL", (name,), idempotent=True)))

    def _search(self, links: Links) -> tuple[int, bool]:
        """Remove what stands on this server: how many keys, and whether the search came to its end."""
        start, deadline = f"{self.prefix}:".encode(), time.monotonic() + SCAN_SECONDS
        cursor, removed = 0, 0
        while True:
            args = (cursor, "MATCH", self.pattern, "COUNT", 1000)
            reply = links.insist(Command("SCAN", (), args, idempotent=True))
            removed += sum(self._drop(links, key) for key in reply[1] if key.startswith(start))
            cursor = int(reply[0])
            if not cursor or time.monotonic() > deadline:
                return removed, not cursor
