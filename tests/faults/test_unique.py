"""Unique messages while workers are killed and replies get lost: no key stays held, none is held by two."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

import reliq
from reliq.core import scripts
from reliq.core.command import Command
from tests.faults.lab import Lab, lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_foreign import Killer

KEYS = 12


def held(it: Lab) -> Any:
    """What the queue knows of unique messages."""
    return it.queue.links.insist(Command("HGETALL", (it.queue.options.keys.uniques,)))


def produce(queue: reliq.Queue, only: str, until: float, added: dict[str, int], replaced: set[str]) -> None:
    """Put as fast as the answers come, and write down what they say."""
    n = 0
    while time.monotonic() < until:
        n += 1
        key = f"k{n % KEYS}"
        conflict = "replace" if n % 5 == 0 else "skip"
        try:
            receipt = queue.put(
                {"n": n, "ms": 2, "key": key}, unique=reliq.Unique(key, until=only, on_conflict=conflict)
            )
        except reliq.OutcomeUnknown as error:
            receipt = retold(queue, error)
        if receipt.added:
            added[str(receipt)] = n % KEYS
        if receipt.replaced:  # which is not told any more when it was a repeat
            replaced.add(receipt.replaced)


def retold(queue: reliq.Queue, error: reliq.OutcomeUnknown) -> Any:
    """What a repeat says in the end."""
    while True:
        with contextlib.suppress(reliq.ReliqError):
            [receipt] = queue.repeat(error)
            return receipt


@pytest.mark.parametrize("only", ["done", "started"])
def test_keys_are_free_in_the_end(server: Any, prefix: str, only: str) -> None:
    """Three worker processes, one killed again and again at whatever moment; of every fiftieth call the reply is
    lost. Each accepted message is handled or was replaced, none that was not put is, and all keys are free."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as proxy, lab(server, prefix) as it:
        names = ("put", "begin", "trip", "reap")
        proxy.scripts.update({name: getattr(scripts, name).sha for name in names})
        rules = [proxy.on(script=name, action=drop_reply(), count=None, probability=0.02) for name in names]
        worker = it.start(url=proxy.url, processes=3, concurrency=4)
        added: dict[str, int] = {}
        replaced: set[str] = set()
        producers = [reliq.Queue("work", proxy.url, prefix=prefix) for _ in range(2)]
        until = time.monotonic() + 8
        threads = [
            threading.Thread(target=produce, args=(queue, only, until, added, replaced)) for queue in producers
        ]
        for thread in threads:
            thread.start()
        killer = Killer(worker)
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.3)
            killer.kill_one()
        wait_until(it.at_rest, 40, "drained", every=0.1)
        wait_until(lambda: not held(it), 10, f"all keys are free: {held(it)}")
        effects = it.effects()
        handled = {effect["id"] for effect in effects}
        replaced |= {event["id"] for event in it.events() if event["event"] == "replace"}
        lost_replies = sum(rule.hits for rule in rules)
        print(f"{len(added)} put, {len(replaced)} replaced, {killer.kills} kills, {lost_replies} lost replies")
        assert handled <= set(added)
        assert set(added) - handled <= replaced
        assert it.queue.size().dead == 0
        assert killer.kills >= 2
        assert all(rule.hits for rule in rules[:3])
        for queue in producers:
            queue.close()
