"""Values that foreign programs have pushed as they are: none is lost, and equal ones are counted one by one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from reliq.core import scripts
from tests.faults.lab import WorkerProcess, lab, wait_until
from tests.faults.proxy import FaultProxy, Rule, drop_reply
from tests.faults.test_network import moved

#: How many are pushed; the full measure is 100,000.
FOREIGN_VALUES = int(os.environ.get("FOREIGN_VALUES", "8000"))


def values(count: int) -> list[bytes]:
    """Half of them are the same bytes, the others come in pairs; shuffled, so that equal ones meet anywhere."""
    numbers = [0] * (count // 2) + [n for n in range(1, count // 4 + 1) for _ in range(2)]
    random.Random(11).shuffle(numbers)
    return [b'{"n": %d, "ms": 2}' % n for n in numbers]


def number(value: bytes) -> int:
    return int(value[6 : value.index(b",")])


def pipe(url: str, key: str, elements: Sequence[bytes]) -> None:
    """One LPUSH for each value, sent without waiting, as `redis-cli --pipe` does; nothing of reliq is in it."""
    place = urlsplit(url)
    commands = b"".join(
        b"*3\r\n$5\r\nLPUSH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key.encode(), len(e), e) for e in elements
    )
    with socket.create_connection((place.hostname, place.port)) as line:
        sending = threading.Thread(target=line.sendall, args=(commands,))
        sending.start()
        with line.makefile("rb") as replies:
            assert all(next(replies).startswith(b":") for _ in elements), "Redis has accepted each"
        sending.join()


@contextlib.contextmanager
def lossy_line(server: Any) -> Iterator[tuple[str, list[Rule]]]:
    """An address that loses one reply in fifty of what brings and settles messages, and what it did."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy:
        proxy.scripts.update({name: getattr(scripts, name).sha for name in ("trip", "reap")})
        often: dict[str, Any] = {"action": drop_reply(), "count": None, "probability": 0.02}
        rules = [proxy.on(script=name, **often) for name in ("trip", "reap")]
        yield proxy.url, [*rules, proxy.on(command=b"BLMOVE", reply=moved, **often)]


class Killer:
    """Kills worker processes, none before its time: one that dies at once is started again ever later."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.kills = 0
        self._worker = worker
        self._born: dict[int, float] = {}

    def kill_one(self) -> None:
        """The oldest one, if it is old enough."""
        now, alive = time.monotonic(), self._worker.children()
        self._born = {pid: self._born.get(pid, now) for pid in alive}
        oldest = min(alive, key=self._born.__getitem__, default=0)
        if oldest and now - self._born[oldest] > 1.2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(oldest, signal.SIGKILL)
                self.kills += 1


def test_foreign_values_survive_kills_and_lost_replies_each_for_itself(server: Any, prefix: str) -> None:
    """Raw values, most of them equal, in a list that was there first; workers are killed and replies lost all the
    time. Each value becomes as many messages as it was pushed times, and each of those is handled."""
    pushed = values(FOREIGN_VALUES)
    key, halves = f"{prefix}-orders", (pushed[::2], pushed[1::2])
    pipe(server.url, key, halves[0])  # before there is a queue
    with lossy_line(server) as (url, rules), lab(server, prefix, key=key, codec="json") as it:
        worker = it.start(url=url, processes=3, concurrency=4)
        wait_until(it.effects, 20, "work begins")
        producer = threading.Thread(target=pipe, args=(server.url, key, halves[1]))
        producer.start()
        killer, deadline = Killer(worker), time.monotonic() + 30 + FOREIGN_VALUES / 200
        while producer.is_alive() or not it.at_rest():
            assert time.monotonic() < deadline, f"not drained: {it.queue.size()}"
            time.sleep(0.3)
            killer.kill_one()
        producer.join()
        it.drained(30)
        effects, lost_replies = it.effects(), sum(rule.hits for rule in rules)
        handled = Counter(n for n, _ in {(effect["n"], effect["id"]) for effect in effects})
        again = len(effects) - handled.total()
        print(f"{len(pushed):,} values, {killer.kills} kills, {lost_replies} lost replies, {again} handled again")
        assert handled == Counter(map(number, pushed))
        assert it.queue.size().dead == 0
        assert killer.kills >= 3
        assert lost_replies >= 3
