"""``reliq metrics``: how the queues are, for Prometheus, seen from outside; works beside any workers."""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

from reliq.cli import logs, text
from reliq.cli.failure import FINE
from reliq.cli.place import Place
from reliq.cli.verb import Verb
from reliq.core import flows
from reliq.core.command import Command, Flow
from reliq.core.dead import LetterWalk
from reliq.core.keys import Keys
from reliq.core.pulse import pulse_g
from reliq.core.reasons import of_cause
from reliq.errors import ConfigError, ReliqError
from reliq.logging import log
from reliq.serving import Page
from reliq.sync.health import Health
from reliq.sync.queue import Queue
from reliq.telemetry import prometheus
from reliq.telemetry.prometheus import EVENTS, Seen

#: Steps of 256 kB, at most, of dead letters that are read for one answer; the next one goes on.
_STEPS: Final = 20
#: The cause of those that were not read yet.
_UNREAD: Final = "UNREAD"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="serve /metrics there until it is ended (default: print them once)"
    )


def run(args: argparse.Namespace) -> int:
    """Print, or serve until SIGTERM or SIGINT."""
    logs.set_up_plain()
    if not prometheus.installed():
        raise ConfigError(prometheus.MISSING)
    exporter = Exporter(Place.of(args), args.queue)
    if args.listen is None:
        page = prometheus.queues_page(exporter.look(), up=True)
        print(page.body, end="") if not args.json else text.print_json({"metrics": page.body})
        return FINE
    server = Health("--listen", args.listen, {"/metrics": exporter.page})
    signal.signal(signal.SIGTERM, _end)
    if args.json:
        text.print_json({"port": server.port})
    else:
        print(f"serving /metrics on port {server.port}")
    sys.stdout.flush()
    try:
        while True:
            server.step(60.0)
    finally:
        server.close()


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(FINE)


class Exporter:
    """Looks at the queues whenever it is asked; remembers the causes of dead letters from look to look."""

    def __init__(self, place: Place, names: Sequence[str]) -> None:
        self._place = place
        self._names = names
        self._causes: dict[str, Causes] = {}
        self._down = False

    def page(self) -> Page:
        """What is there to tell; if Redis does not answer, only that."""
        try:
            seen = self.look()
        except ReliqError as error:
            if not self._down:
                log.warning("%s", error)
            self._down = True
            return prometheus.queues_page([], up=False)
        self._down = False
        return prometheus.queues_page(seen, up=True)

    def look(self) -> list[Seen]:
        """Look at each queue: some five round trips, and those for dead letters that are new."""
        return [self._look(queue) for queue in self._place.choose(self._names)]

    def _look(self, queue: Queue) -> Seen:
        keys = queue.options.keys
        causes = self._causes.setdefault(queue.name, Causes(keys))
        seen: Seen = queue.links.flow(_seen_g(keys, causes))
        return seen


def _seen_g(keys: Keys, causes: Causes) -> Flow[Seen]:
    pulse = yield from pulse_g(keys)
    sizes = yield from flows.sizes_g(keys)
    events = yield _events(keys)
    return Seen(keys.queue, pulse, sizes.doing, events, (yield from causes.read_g(pulse.dead, events)))


def _events(keys: Keys) -> Command:
    """Parses to the counters that consumers and people keep, by name."""

    def parse(reply: Any) -> dict[str, int]:
        return {name: int(n) for name, n in zip(EVENTS, reply, strict=True) if n is not None and n.isdigit()}

    return Command("HMGET", (keys.stats,), EVENTS, parse, idempotent=True, queue=keys.queue)


class Causes:
    """How many dead letters have which cause. They are read in bounded steps, and again when there are others."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._walk = LetterWalk(keys)
        self._found: Counter[str] = Counter()
        self._known: Counter[str] | None = None
        self._signature: tuple[int, ...] = ()

    def read_g(self, dead: int, events: Mapping[str, int]) -> Flow[dict[str, int]]:
        """As many as are known by now; of the first reading also how many are left."""
        signature = (dead, *(events.get(event, 0) for event in ("bury", "revive", "discard", "restore")))
        if self._walk.done and signature != self._signature:
            self._walk, self._found = LetterWalk(self._keys), Counter()
        if not self._found:
            self._signature = signature
        for _ in range(_STEPS):
            if self._walk.done:
                break
            letters = yield from self._walk.step_g()
            self._found.update(of_cause(letter.cause).removeprefix("DEAD_") for letter in letters)
        if self._walk.done:
            self._known = self._found
        if self._known is not None:
            return dict(self._known)
        return {**self._found, _UNREAD: max(0, dead - self._found.total())}


VERB = Verb(
    name="metrics",
    summary="how the queues are, for Prometheus",
    details="Depth, age, dead letters by cause, consumers, what became of messages; one process for a prefix is "
    "enough. What workers measure they tell themselves: reliq worker --health.",
    example="reliq metrics --listen 127.0.0.1:9108",
    configure=configure,
    run=run,
    queue_help="only this queue (default: all that are known)",
    many_queues=True,
)
