"""Results while workers are killed and replies get lost: every wait ends, with what the accepted ack has said."""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

import reliq
from reliq.core import scripts
from reliq.core.command import Command
from tests.faults.lab import Lab, lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer

SECONDS = 6


def wait_for(queue: reliq.Queue, asked: dict[str, int], until: float, seen: dict[str, Any]) -> None:
    """Put, wait, and write down what came; every tenth fails, and every seventh is cancelled."""
    n = 0
    while time.monotonic() < until:
        n += 1
        body = {"n": n, "ms": 3, "returns": {"square": n * n}} | ({"do": "raise"} if n % 10 == 0 else {})
        receipt = queue.put(body, result=60, retry=reliq.Retry(attempts=1))
        asked[str(receipt)] = n
        if n % 7 == 0:
            queue.cancel(receipt)
        try:
            seen[str(receipt)] = receipt.result(60)
        except reliq.MessageFailed as failed:
            seen[str(receipt)] = failed.cause


def leaked(it: Lab) -> list[Any]:
    """Results and reports that would stay for ever."""
    links, found = it.queue.links, []
    for part in ("result", "progress"):
        cursor = 0
        while True:
            cursor, keys = links.insist(
                Command("SCAN", (), (cursor, "MATCH", f"{it.prefix}:*:{part}:*", "COUNT", 1000))
            )
            found += [key for key in keys if links.insist(Command("PTTL", (key.decode(),))) == -1]
            if int(cursor) == 0:
                break
    return found


def test_every_wait_ends_with_what_was_done(server: Any, prefix: str) -> None:
    """Three worker processes, one killed again and again at whatever moment; of every thirtieth trip and wait the
    reply is lost. Who waits gets what the handler returned, or why it was not done, and nothing stays for ever."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        proxy.scripts.update({name: getattr(scripts, name).sha for name in ("trip", "reap", "put")})
        rules = [proxy.on(script="trip", action=drop_reply(), count=None, probability=0.03)]
        rules += [proxy.on("BLMOVE", action=drop_reply(), count=None, probability=0.03)]
        worker = it.start(url=proxy.url, processes=3, concurrency=4)
        asked: dict[str, int] = {}
        seen: dict[str, Any] = {}
        queues = [reliq.Queue("work", proxy.url, prefix=prefix) for _ in range(4)]
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=wait_for, args=(queue, asked, until, seen)) for queue in queues]
        for thread in threads:
            thread.start()
        killer = Killer(worker)
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until + 60:
            time.sleep(0.3)
            killer.kill_one()
        for thread in threads:
            thread.join(1)
        wait_until(it.at_rest, 40, "drained", every=0.1)
        print(f"{len(asked)} asked, {killer.kills} kills, {[rule.hits for rule in rules]} lost replies")
        assert seen.keys() == asked.keys()
        for id, n in asked.items():
            ends: list[Any] = ["ATTEMPTS"] if n % 10 == 0 else [{"square": n * n}]
            assert seen[id] in ends + (["CANCELLED"] if n % 7 == 0 else []), n
        assert leaked(it) == []
        assert killer.kills >= 1
        assert all(rule.hits for rule in rules)
        assert len(asked) > 20
        for queue in queues:
            queue.close()
