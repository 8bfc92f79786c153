"""The idempotency prover: it finds each planted defect, by the right kind of schedule, and clears what is
right."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.errors import ConfigError
from reliq.testing import NotIdempotent, Proof, Unprovable, capture, prove
from tests.conftest import BINARIES
from tests.servers import NO_SERVER, RedisServer
from tests.testing import samples
from tests.testing.samples import Sample

Prove = Callable[..., Proof]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """The newest that there is: what a proof shows is of the handler, and not of the server."""
    assert BINARIES, NO_SERVER
    with RedisServer(BINARIES[-1], appendonly=False) as running:
        yield running


@pytest.fixture
def proof(server: RedisServer) -> Prove:
    """``prove`` there, told and not raised."""

    def run(sample: Sample, **options: Any) -> Proof:
        return prove(
            sample.handler,
            sample.bodies,
            effects=sample.effects,
            reset=sample.reset,
            **{"url": server.url, "raises": False, **options},
        )

    return run


@pytest.mark.parametrize("make", samples.WRONG, ids=lambda make: make.__name__)
def test_finds(make: Callable[[Path], Sample], tmp_path: Path, proof: Prove) -> None:
    """What is planted, all of it and nothing else; and each finding fails again when its schedule is played
    alone."""
    sample = make(tmp_path)
    found = proof(sample)
    assert {each.kind: {d.kind for d in each.differences} for each in found.findings} == sample.fails, str(found)
    for finding in found.findings:
        again = proof(sample, schedule=str(finding.schedule))
        assert [(each.schedule, each.differences) for each in again.findings] == [
            (finding.schedule, finding.differences)
        ]


@pytest.mark.parametrize("make", samples.RIGHT, ids=lambda make: make.__name__)
def test_clears(make: Callable[[Path], Sample], tmp_path: Path, proof: Prove) -> None:
    """What is right."""
    found = proof(make(tmp_path))
    assert found.ok, str(found)
    assert found.schedules > 10


@pytest.mark.parametrize("make", [samples.stale_lock, samples.append], ids=lambda make: make.__name__)
def test_finds_with_real_kills(make: Callable[[Path], Sample], tmp_path: Path, proof: Prove) -> None:
    """With a process for each delivery: what only a dead one leaves behind, and the same as without."""
    sample = make(tmp_path)
    found = proof(sample, processes=True)
    assert {each.kind: {d.kind for d in each.differences} for each in found.findings} == sample.fails, str(found)
    assert not found.notes
    schedule = found.findings[-1].schedule
    assert [each.schedule for each in proof(sample, processes=True, schedule=str(schedule)).findings] == [schedule]
    if make is samples.stale_lock:
        seen = proof(sample)
        assert seen.ok
        assert "`finally`" in str(seen)


def test_clears_with_real_kills(tmp_path: Path, proof: Prove) -> None:
    """What is right, by a coroutine."""

    async def write(body: str, lease: reliq.Lease) -> None:
        await asyncio.sleep(0)
        (tmp_path / body).write_text("done")

    def reset() -> None:
        for path in tmp_path.iterdir():
            path.unlink()

    found = proof(Sample(write, ["a", "b"], lambda: sorted(tmp_path.iterdir()), reset), processes=True)
    assert found.ok, str(found)


def test_processes_need_effects_outside(proof: Prove) -> None:
    """What is in memory cannot be seen from here, and it says so; likewise what cannot run in a fork."""
    world: dict[str, int] = {}
    here = os.getpid()

    def not_in_a_child(body: Any) -> None:
        if os.getpid() != here:
            raise OSError("connection of the parent")

    def handle(body: Any) -> None:
        world[body] = 1

    with pytest.raises(Unprovable, match="effects are in memory"):
        proof(Sample(handle, ["a"], lambda: world, world.clear), processes=True)
    with pytest.raises(Unprovable, match=r"fails in a process of its own, at body 1: OSError"):
        proof(Sample(not_in_a_child, ["a"], lambda: world, world.clear), processes=True)


# -- what a handler sees ------------------------------------------------------------------------------------


def test_leases_are_real(proof: Prove) -> None:
    """Deliveries, losses and fences are what a worker would see, and the settle of a zombie is refused."""
    seen: list[Any] = []
    world: dict[str, int] = {}

    def handle(body: Any, lease: reliq.Lease) -> None:
        seen.append((lease.deliveries, lease.attempt, lease.fence, lease.queue))
        world[lease.id] = 1
        len(seen)

    sample = Sample(handle, ["x"], lambda: world, world.clear)
    line = handle.__code__.co_firstlineno + 3

    def played(schedule: str) -> list[Any]:
        seen.clear()
        found = proof(sample, schedule=schedule)
        assert found.ok
        return seen[2:]  # without the two for reference

    assert played("deliver 1") == [(1, 1, 1, "proof")]
    assert played("deliver 1 1") == [(1, 1, 1, "proof"), (1, 1, 1, "proof")]
    assert played("deliver 1, kill 1 at its ack") == [(1, 1, 1, "proof"), (2, 1, 2, "proof")]
    assert played(f"deliver 1, lose 1 at handle:{line}") == [(1, 1, 1, "proof"), (2, 1, 2, "proof")]
    assert played(f"deliver 1, fail 1 at handle:{line}") == [(1, 1, 1, "proof"), (2, 2, 2, "proof")]


def test_story(proof: Prove) -> None:
    """What is told is what happened, step by step, with the line, what to do, and how to see it again."""
    hits: list[str] = []

    def handle(body: str) -> None:
        hits.append(body)

    found = proof(Sample(handle, ["a", "b"], lambda: hits, hits.clear))
    line = handle.__code__.co_firstlineno + 1
    lost = next(each for each in found.findings if each.kind == samples.LOST)
    assert str(lost.schedule) == f"deliver 1, lose 1 at handle:{line}"
    assert lost.story == [
        "A gets 1 (delivery 1, fence 1)",
        f"A is stopped before handle:{line}: hits.append(body)",
        "its lease ends, the message goes back",
        "B gets 1 (delivery 2, fence 2)",
        "B ends: ack",
        "A goes on",
        "A ends: ack, refused: it comes too late",
    ]
    assert "schedule='deliver 1 1'" in str(found)
    assert "doubled: 'a' is there twice, should be once" in str(found)
    assert "lease.fence" in lost.advice()


def test_raises(server: RedisServer) -> None:
    """As in a test: the report is the failure. What is right returns."""
    hits: list[str] = []
    options: dict[str, Any] = {"effects": lambda: hits, "reset": hits.clear, "url": server.url}
    with pytest.raises(NotIdempotent, match="doubled: 'a' is there twice") as raised:
        prove(lambda body: hits.append(body), ["a"], inside=[print_all], **options)
    assert not raised.value.proof.ok
    assert prove(lambda body: hits.count(body) or hits.append(body), ["a"], **options, schedule="deliver 1 1").ok


def print_all(*values: Any) -> None:
    print(*values)


def test_settled_by_hand(proof: Prove) -> None:
    """Who acks before the effect loses it."""
    hits: list[str] = []

    def handle(body: str, lease: reliq.Lease) -> None:
        lease.ack()
        hits.append(body)

    found = proof(Sample(handle, ["a"], lambda: hits, hits.clear))
    assert {each.kind: {d.kind for d in each.differences} for each in found.findings} == {
        samples.TWICE: {"doubled"},
        samples.KILLED: {"missing"},
        samples.FAILED: {"missing"},
    }


def test_handler_of_a_queue(proof: Prove) -> None:
    """Decorated, with the codec of its queue, whichever shell; nothing goes to its own Redis. ``inside``: what it
    calls is stopped, too."""
    world: dict[str, int] = {}
    queue = reliq.aio.Queue("orders", "redis://127.0.0.1:1/0", codec="json", levels=True)

    def write(key: str) -> None:
        world[key] = world.get(key, 0) - 1
        world[key] += 2

    @queue.ack(retry=reliq.Retry(attempts=1))
    async def handle(body: Any, lease: reliq.Lease) -> None:
        assert (body, lease.queue) == ({"k": "a"}, "orders")
        if lease.id not in world:
            write("a")
            world[lease.id] = 1

    sample = Sample(handle, [{"k": "a"}], lambda: world.get("a"), world.clear)
    found = proof(sample, inside=[write])
    killed = next(each for each in found.findings if each.kind == samples.KILLED)
    assert "write:" in str(killed.schedule)


@pytest.mark.parametrize(
    "wrap", [functools.partial, lambda f: type("Object", (), {"__call__": lambda s, b: f(b)})()]
)
def test_wrapped(wrap: Any, proof: Prove) -> None:
    """Partials, and objects that can be called."""
    world: dict[str, int] = {}

    def handle(body: str) -> None:
        world[body] = 1

    assert proof(Sample(wrap(handle), ["a"], lambda: world, world.clear)).schedules > 3


def test_ordered(proof: Prove) -> None:
    """Who says that messages come in order is not tried with others."""
    world: dict[str, int] = {}

    def handle(body: int) -> None:
        world["last"] = body

    sample = Sample(handle, [1, 2], lambda: world, world.clear)
    assert [each.kind for each in proof(sample).findings] == [samples.ORDER]
    assert proof(sample, ordered=True).ok


# -- what cannot be proved ----------------------------------------------------------------------------------


def test_unprovable(proof: Prove) -> None:
    """A handler that fails by itself, effects that are never the same, a reset that leaves something."""
    world: list[Any] = []

    def fails(body: Any) -> None:
        raise ValueError(body)

    with pytest.raises(Unprovable, match=r"fails by itself, at body 1: ValueError\(7\)") as raised:
        proof(Sample(fails, [7], lambda: world, world.clear))
    assert isinstance(raised.value.__cause__, ValueError)

    def never_done(body: Any) -> None:
        raise reliq.Bury("no") if body == 8 else reliq.Release()

    for body in (7, 8):
        with pytest.raises(Unprovable, match="fails by itself"):
            proof(Sample(never_done, [body], lambda: world, world.clear))

    def given_back(body: Any, lease: reliq.Lease) -> None:
        lease.release()

    with pytest.raises(Unprovable, match="nothing would be proved"):
        proof(Sample(lambda body: None, [7], lambda: world, world.clear))
    with pytest.raises(Unprovable, match="does not get done by itself"):
        proof(Sample(given_back, [7], lambda: world, world.clear))
    with pytest.raises(Unprovable, match="leave out what differs"):
        proof(Sample(lambda body: world.append(object()), [7], lambda: list(map(id, world)), world.clear))
    with pytest.raises(Unprovable, match=r"reset\(\) does not make the world as new"):
        proof(Sample(lambda body: world.append(body), [7], lambda: world, lambda: None))


def test_bounded(proof: Prove) -> None:
    """At most so many schedules, over all of them, and it says so."""
    world: dict[int, int] = {}

    def handle(body: int) -> None:
        for n in range(5):
            world[n] = body + n - body

    found = proof(Sample(handle, [1, 2], lambda: world, world.clear), most=20)
    assert found.schedules <= 22
    assert "20 were played at most" in found.notes[0]


def test_notes(proof: Prove) -> None:
    """What a kill by an exception does not show is told."""
    world: dict[int, int] = {}

    def handle(body: int) -> None:
        try:
            world[body] = 1
        finally:
            world[0] = 1

    found = proof(Sample(handle, [1], lambda: world, world.clear))
    assert "`finally`" in str(found)


def test_wrong(proof: Prove) -> None:
    """Without bodies, with a schedule of other lines, or in an event loop, it says what to do."""
    world: list[Any] = []

    async def handle(body: Any) -> None:
        world.append(body)

    async def inside() -> None:
        proof(sample)

    sample = Sample(handle, [1], lambda: world, world.clear)
    with pytest.raises(ConfigError, match="1 to 20"):
        proof(Sample(handle, [], lambda: world, world.clear))
    with pytest.raises(ConfigError, match="has the code changed since"):
        proof(sample, schedule="deliver 1, kill 1 at handle:1")
    with pytest.raises(ConfigError, match="to_thread"):
        asyncio.run(inside())
    with pytest.raises(ConfigError, match="not written in Python"):
        proof(Sample({}.update, [{}], lambda: world, world.clear))


def test_dependencies(proof: Prove) -> None:
    """A handler that needs something is given it with ``bind``."""
    world: dict[str, int] = {}
    queue = reliq.Queue("orders", "redis://127.0.0.1:1/0")

    @queue.ack
    def handle(body: str, store: reliq.Dependency[dict[str, int]]) -> None:
        store[body] = 1

    found = proof(Sample(handle.bind(store=world), ["a", "b"], lambda: world, world.clear))
    assert found.ok
    assert found.schedules > 5


def test_ways_that_depend_on_others(proof: Prove) -> None:
    """A line that is come to only after another message: without that one nothing happens there."""
    world: set[str] = set()

    def handle(body: str) -> None:
        if world:
            len(world)
        world.add(body)

    found = proof(Sample(handle, ["a", "b"], lambda: world, world.clear))
    assert found.ok, str(found)


def test_what_is_left_open(tmp_path: Path, proof: Prove) -> None:
    """A file that a killed handler had open is closed at once: nothing of it gets into another schedule."""
    path = tmp_path / "log"

    def note(body: str) -> None:
        file = path.open("a")
        file.write(f"{body}\n")
        file.close()

    sample = Sample(note, ["a", "b"], lambda: path.read_text().splitlines(), lambda: path.write_text(""))
    for _ in range(3):
        found = proof(sample)
        assert {each.kind: {d.kind for d in each.differences} for each in found.findings} == {
            samples.TWICE: {"doubled"},
            samples.KILLED: {"doubled"},
            samples.LOST: {"doubled"},
            samples.FAILED: {"doubled"},
        }


def test_puts_are_effects(proof: Prove) -> None:
    """What a handler puts can be captured, and with an id of its own it is there once however often it is put."""
    mails = reliq.Queue("mails", "redis://127.0.0.1:1/0")

    def order(body: str, lease: reliq.Lease) -> None:
        mails.put({"order": body}, id=f"mail for {lease.id}")

    with capture(mails, passthrough=False) as puts:
        found = proof(Sample(order, ["a", "b"], lambda: puts.bodies, puts.clear))
        assert samples.TWICE in {each.kind for each in found.findings}
        found = proof(Sample(order, ["a", "b"], lambda: {put.options["id"]: put.body for put in puts}, puts.clear))
        assert found.ok


@pytest.mark.parametrize("is_async", [False, True])
def test_idempotent_handlers(is_async: bool, proof: Prove) -> None:
    """``reliq.idempotent`` does the work of a key once; not that of a message whose worker dies before its ack."""
    world: dict[str, int] = {}
    queue = (reliq.aio if is_async else reliq).Queue("orders", "redis://127.0.0.1:1/0")

    def handle(body: Any) -> None:
        world[body["k"]] = world.get(body["k"], 0) + 1

    async def handle_async(body: Any) -> None:
        handle(body)

    handler = queue.ack(reliq.idempotent(key="k")(handle_async if is_async else handle))
    found = proof(Sample(handler, [{"k": "a"}, {"k": "b"}], lambda: world, world.clear))
    kinds = {each.kind for each in found.findings}
    assert samples.TWICE not in kinds
    assert samples.KILLED in kinds
    assert proof(Sample(handler, [{"k": "a"}, {"k": "a"}], lambda: world, world.clear), schedule="deliver 1 2").ok


def test_batches(proof: Prove) -> None:
    """A handler that takes a list gets lists of one."""
    hits: list[Any] = []
    queue = reliq.Queue("orders", "redis://127.0.0.1:1/0")

    @queue.ack(batch=10)
    def handle(bodies: list[Any]) -> None:
        hits.extend(bodies)

    found = proof(Sample(handle, ["a", "b"], lambda: hits, hits.clear))
    assert samples.TWICE in {each.kind for each in found.findings}


def test_coroutine_in_one_thread(proof: Prove) -> None:
    """A coroutine that cannot run in another thread: what can be tried is tried, and the rest is told."""
    world: dict[str, int] = {}
    here = threading.get_ident()

    async def handle(body: str) -> None:
        if threading.get_ident() != here:
            raise RuntimeError("not my thread")
        world[body] = world.get(body, 0) + 1

    found = proof(Sample(handle, ["a", "b"], lambda: world, world.clear))
    assert {each.kind for each in found.findings} == {samples.TWICE, samples.KILLED}
    assert "none was tried" in str(found)


async def test_nothing_is_left(proof: Prove, server: RedisServer) -> None:
    """Neither keys in Redis nor threads here; and it can be called beside an event loop."""
    world: dict[int, int] = {}
    sample = Sample(lambda body: world.update({body: 1}), [1, 2], lambda: world, world.clear)
    with server.client() as redis:
        before = set(redis.scan_iter("*"))
        assert (await asyncio.to_thread(proof, sample)).ok
        assert set(redis.scan_iter("*")) == before
