"""The error replies of the servers found here, inside and outside of scripts, mean what the table says."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from reliq import client
from reliq.errors import OutcomeUnknown, QueueFull, ReliqError, Unavailable, UnsupportedServer, WrongKeyType
from tests.lua.lab import Lab

PUSH = "return redis.call('LPUSH', KEYS[1], 'a')"


def meaning(lab: Lab, *words: Any) -> type[ReliqError]:
    """The kind of error that this command fails with."""
    with pytest.raises(redis_py.exceptions.RedisError) as caught:
        lab.client.execute_command(*words)
    return type(client.failure(caught.value, "test", "here", sent=True))


def both(lab: Lab) -> tuple[type[ReliqError], type[ReliqError]]:
    """The same write outside and inside of a script."""
    return meaning(lab, "LPUSH", "k", "a"), meaning(lab, "EVAL", PUSH, 1, "k")


def test_writes_that_are_refused(own_lab: Lab) -> None:
    """Wrong type, out of memory, too few replicas, read-only replica: refused, in a script as well."""
    lab = own_lab
    lab.client.set("k", "text")
    assert both(lab) == (WrongKeyType, WrongKeyType)
    lab.client.delete("k")
    for setting, value in (("maxmemory", 1), ("min-replicas-to-write", 1)):
        lab.client.config_set(setting, value)
        expected = QueueFull if setting == "maxmemory" else Unavailable
        assert both(lab) == (expected, expected)
        lab.client.config_set(setting, 0)
    lab.client.replicaof("127.0.0.1", 1)
    assert both(lab) == (Unavailable, Unavailable)
    lab.client.config_set("replica-serve-stale-data", "no")
    assert meaning(lab, "EVAL", PUSH, 1, "k") is Unavailable


def test_unable_to_save(own_lab: Lab) -> None:
    """A server that cannot save to disk refuses writes: MISCONF."""
    lab = own_lab
    folder = lab.client.config_get("dir")["dir"]
    lab.client.config_set("save", "3600 1000000")
    (Path(folder) / "dump.rdb").mkdir()  # in the way of the file
    lab.client.bgsave()
    deadline = time.monotonic() + 10
    while lab.client.info("persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert both(lab) == (Unavailable, Unavailable)
    lab.client.config_set("save", "")  # or it does not end


def test_busy(own_lab: Lab) -> None:
    """While a script runs too long others are refused; the one that is killed may have run in part."""
    lab = own_lab
    lab.client.config_set("lua-time-limit", 10)
    killed: list[type[ReliqError]] = []
    thread = threading.Thread(target=lambda: killed.append(meaning(lab, "EVAL", "while true do end", 0)))
    thread.start()
    time.sleep(0.1)
    assert both(lab) == (Unavailable, Unavailable)
    lab.client.script_kill()
    thread.join()
    assert killed == [OutcomeUnknown]


def test_others(lab: Lab) -> None:
    """An unknown command is an old server, a forgotten script is refused, a failing script is unknown."""
    assert meaning(lab, "NOSUCHCOMMAND", "a") is UnsupportedServer
    assert meaning(lab, "EVALSHA", "0" * 40, 0) is Unavailable
    assert meaning(lab, "EVAL", "return nil + 1", 0) is OutcomeUnknown
    assert meaning(lab, "EVAL", "return redis.call('NOSUCHCOMMAND')", 0) is OutcomeUnknown
