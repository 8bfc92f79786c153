"""The two shells are one interface: the same files, classes, names, arguments and defaults."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import reliq
import reliq.aio

ROOT = Path(reliq.__file__).parent

SYNC_ONLY = {
    "board.py": "memory that a supervisor and its children share",
    "supervisor.py": "processes",
    "wire.py": "asyncio reads from its own streams",
}
"""Files of reliq/sync without a counterpart in reliq/aio, and why."""

AIO_ONLY = {
    "puts.py": "threads have a connection each, tasks share",
}
"""The other way round."""

RENAMED = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
RENAMED |= {"__iter__": "__aiter__", "__next__": "__anext__"}

CLASSES = [
    *(("queue", "Queue"), ("consumer", "Consumer"), ("lease", "Lease"), ("reaper", "Reaper")),
    *(("link", "Link"), ("pool", "Pool"), ("connection", "Links"), ("engine", "Engine")),
    *(("exclusive", "Exclusive"), ("exclusive", "Batch")),
    *(("scheduler", "Scheduler"), ("scheduler", "Ticker")),
]

ALLOWED = {
    ("Engine", "end_bell"): "the blocking shell's ring is in a thread that it may wait for",
    ("Links", "__init__"): "finding the URL may block, so it is awaited",
    ("Links", "address"): "a property in the blocking shell, awaited in the other",
    ("Links", "server"): "a property in the blocking shell, awaited in the other",
}
"""Where they differ on purpose."""

BLOCKING_ONLY = {"rest", "rested", "interrupt"}
"""A handler's thread waits for the bell itself, so that none has to be woken; tasks need no such thing."""


def public(cls: Any) -> dict[str, Any]:
    """The public methods and properties, by name."""
    special = {*RENAMED, *RENAMED.values(), "__init__"}
    return {
        name: inspect.getattr_static(cls, name)
        for name in dir(cls)
        if (not name.startswith("_") or name in special) and name not in vars(object).keys() - {"__init__"}
    }


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    function = getattr(function, "__func__", function)
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_same_names_and_arguments(module: str, name: str) -> None:
    """Every public name of one shell is in the other, with the same arguments, kinds and defaults."""
    sync = public(getattr(importlib.import_module(f"reliq.sync.{module}"), name))
    aio = public(getattr(importlib.import_module(f"reliq.aio.{module}"), name))
    expected = {RENAMED.get(n, n) for n in sync if n not in BLOCKING_ONLY}
    assert expected == set(aio) - {"post"}  # post: settle without waiting, for a task that is being cancelled
    for sync_name, found in sync.items():
        if (name, sync_name) in ALLOWED or sync_name in BLOCKING_ONLY:
            continue
        other = aio[RENAMED.get(sync_name, sync_name)]
        assert isinstance(found, property) == isinstance(other, property), sync_name
        if not isinstance(found, property):
            assert parameters(found) == parameters(other), sync_name


WAITS = {
    "Queue": {
        "put",
        "put_many",
        "progress",
        "repeat",
        "result",
        "size",
        "explain",
        "enroll",
        "ping",
        "revive",
        "cancel",
        "reschedule",
        "schedule",
        "schedules",
        "unschedule",
        "pause",
        "drain",
        "purge",
        "resume",
        "limit",
        "gate",
        "aclose",
        "__aenter__",
        "__aexit__",
    },
    "Consumer": {"claim", "settle", "aclose", "__anext__", "__aenter__", "__aexit__"},
    "Exclusive": {"settle", "aclose", "__anext__", "__aenter__", "__aexit__"},
    "Batch": {"ack", "retry", "release", "__aenter__", "__aexit__"},
    "Lease": {"ack", "retry", "release", "bury", "__aenter__", "__aexit__"},
    "Reaper": {"run_once", "reap", "scan", "on_duty", "run"},
    "Scheduler": {"run_once", "run"},
    "Worker": {"run", "__aenter__", "__aexit__"},
}
"""What talks to Redis, so it is awaited; the rest is not."""


@pytest.mark.parametrize("name", sorted(WAITS))
def test_what_talks_to_redis_is_awaited(name: str) -> None:
    """Exactly the verbs that talk to Redis are coroutine functions; q.consumer() is a plain call."""
    methods = public(getattr(reliq.aio, name))
    assert {n for n, found in methods.items() if inspect.iscoroutinefunction(found)} == WAITS[name]


def test_workers_are_made_and_stopped_alike() -> None:
    """Same arguments; what differs is said: processes are the blocking shell's, `async with` the other's."""
    sync, aio = public(reliq.Worker), public(reliq.aio.Worker)
    assert parameters(sync["__init__"]) == parameters(aio["__init__"])
    assert set(sync) - set(aio) == {"supervise"}
    assert set(aio) - set(sync) == {"__aenter__", "__aexit__"}


def test_same_files() -> None:
    """reliq/sync and reliq/aio hold the same file names; what only one has is listed with its reason."""
    sync = {path.name for path in (ROOT / "sync").glob("*.py")}
    aio = {path.name for path in (ROOT / "aio").glob("*.py")}
    assert sync - aio == set(SYNC_ONLY)
    assert aio - sync == set(AIO_ONLY)


def test_aio_exports_the_names_of_the_package() -> None:
    """`from reliq.aio import Queue` is to be what `from reliq import Queue` is."""
    for name in reliq.aio.__all__:
        assert name in reliq.__all__
