"""A limit on what is in hand, over several processes that are killed: never more, and hardly ever fewer."""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import urlsplit

from reliq.core import scripts
from tests.faults.lab import Lab, lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer

#: How long work waits; the full measure is 120.
SECONDS = float(os.environ.get("GATE_SECONDS", "10"))
LIMIT, LEASE = 10, 5.0


class Watched(Killer):
    """A killer that writes down when whom it has killed."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self.killed: dict[int, float] = {}

    def kill_one(self) -> None:
        before = set(self._worker.children())
        kills = self.kills
        super().kill_one()
        at = time.time()  # not when its supervisor has seen it: by then others have what it held
        if self.kills > kills:
            wait_until(lambda: before - set(self._worker.children()), 5, "it is gone")
            self.killed |= dict.fromkeys(before - set(self._worker.children()), at)


def levels(it: Lab, killed: dict[int, float]) -> list[tuple[float, int]]:
    """How many handlers were running from when on: each from its start to its end, or that of its process."""
    changes: list[tuple[float, int]] = []
    began: dict[tuple[int, str], float] = {}
    for effect in it.effects():
        key = effect["pid"], effect["id"]
        if effect.get("end"):
            changes += [(began.pop(key), 1), (effect["at"], -1)]
        else:
            began[key] = effect["at"]
    for (pid, _), at in began.items():
        assert pid in killed, "whose handler has no end was killed"
        changes += [(at, 1), (killed[pid], -1)]
    level, found = 0, []
    for at, change in sorted(changes):
        level += change
        found.append((at, level))
    return found


def test_never_eleven_and_hardly_ever_fewer_than_nine(server: Any, prefix: str) -> None:
    """Four processes of five slots, one of them killed every half second, one reply in fifty lost."""
    place = urlsplit(server.url)
    with (
        FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy,
        lab(server, prefix, lease=LEASE) as it,
    ):
        proxy.scripts.update({name: getattr(scripts, name).sha for name in ("trip", "reap")})
        rules = [
            proxy.on(script=name, action=drop_reply(), count=None, probability=0.02) for name in ("trip", "reap")
        ]
        it.queue.limit(concurrency=LIMIT)
        count = round(SECONDS * LIMIT / 0.1)
        it.queue.put_many({"n": n, "ms": 100, "ends": True} for n in range(count))
        worker = it.start(url=proxy.url, processes=4, concurrency=5)
        wait_until(it.effects, 20, "work begins")
        killer, deadline = Watched(worker), time.monotonic() + 60 + 4 * SECONDS
        while it.queue.size().ready:
            assert time.monotonic() < deadline, f"not drained: {it.queue.size()}"
            killer.kill_one()
            time.sleep(0.5)
        over = time.time()
        it.drained(30)
        found = [(at, level) for at, level in levels(it, killer.killed)]
        most = max(level for _, level in found)
        full = next(at for at, level in found if level >= LIMIT)
        low, since = 0.0, None  # the longest time with fewer than nine, while work waited
        for at, level in found:
            if since is not None and level >= LIMIT - 1:
                low, since = max(low, min(at, over) - since), None
            elif since is None and level < LIMIT - 1 and full < at < over:
                since = at
        print(f"{count} messages, {killer.kills} kills, {sum(rule.hits for rule in rules)} lost replies; "
              f"at most {most} at once, fewer than {LIMIT - 1} for {low:.2f} s at most")  # fmt: skip
        assert most <= LIMIT
        assert low < LEASE
        assert killer.kills >= 3
        assert {effect["n"] for effect in it.effects()} == set(range(count))
