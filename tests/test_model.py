"""What both shells share about a queue: ids, elements, receipts."""

from __future__ import annotations

import itertools
import os
import pickle
import threading
import time
import uuid

import pytest

from reliq import Settings, context, model
from reliq.core import envelope as env
from reliq.core import ops
from reliq.errors import BodyError, BodyTooLarge
from reliq.identity import Ids
from reliq.receipts import FullReceipt, Receipt


def options(**settings: object) -> model.QueueOptions:
    """Of a queue without anything special."""
    plain = {"key": None, "codec": None, "prefix": None, "lease": 15, "block": 5, "timeout": 5, "retry": None}
    return model.options("q", Settings(), **{**plain, "max_losses": 3, "max_body": 1000, **settings})  # type: ignore[arg-type]


def test_ids_are_time_ordered() -> None:
    """UUIDs of version 7 with the time in them; those of one thread sort in the order of their making."""
    ids, before = Ids(), time.time_ns() // 1_000_000
    made = [*(ids.one() for _ in range(5000)), *ids.many(5000)]
    after = time.time_ns() // 1_000_000
    assert made[:5000] == sorted(made[:5000])
    assert made[5000:] == sorted(made[5000:])
    assert len(set(made)) == 10_000
    for id in made:
        assert (uuid.UUID(bytes=id).version, uuid.UUID(bytes=id).variant) == (7, uuid.RFC_4122)
        assert before <= (env.id_ms(id) or 0) <= after


def test_counting_leaves_the_fixed_bits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even from the highest number that can be drawn, there is room to count."""
    monkeypatch.setattr(os, "urandom", lambda length: b"\xff" * length)
    for id in Ids().many(1000):
        assert (uuid.UUID(bytes=id).version, uuid.UUID(bytes=id).variant) == (7, uuid.RFC_4122)


def test_ids_of_threads_never_meet() -> None:
    """Eight threads, one source."""
    ids = Ids()
    made: list[list[bytes]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda mine=m: mine.extend(ids.one() for _ in range(3000))) for m in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(itertools.chain(*made))) == 24_000


def test_a_forked_child_draws_ids_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same millisecond, too."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    q = options()
    q.element(0)
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, b"".join(q.element(0)[0] for _ in range(10)))
        os._exit(0)
    os.wait()
    theirs = {os.read(read, 16) for _ in range(10)}
    assert len(theirs) == 10
    assert not theirs & {q.element(0)[0] for _ in range(10)}


@pytest.mark.parametrize("codec", [None, "json"])
def test_one_and_many_elements_are_made_alike(codec: str | None) -> None:
    """Each is what pack() makes of its parts."""
    q, bodies = options(codec=codec), [{"n": n} for n in range(3)]
    meta = {"c": "json"} if codec else {}
    with context.tracing("ab" * 16):
        traced = q.element(0)[1]
    ids, parts = q.parts(iter(bodies))
    [elements] = parts
    for id, element, body in zip(ids, elements, bodies, strict=True):
        assert element == env.pack(id, q.codec.encode(body), meta)
    id, element = q.element(bodies[0])
    assert element == env.pack(id, q.codec.encode(bodies[0]), meta)
    assert env.unpack(traced).meta == {**meta, "t": "ab" * 16}
    assert [list(found) for found in q.parts([])] == [[], []]


def test_what_is_wrong_with_one_of_many_is_said() -> None:
    """As it is for one."""
    q = options()
    for bad, error in ((object(), BodyError), ("x" * 1001, BodyTooLarge)):
        with pytest.raises(error) as one:
            q.element(bad)
        with pytest.raises(error) as many:
            q.parts([1, bad, 2])
        assert str(one.value) == str(many.value)


def test_receipts() -> None:
    """A receipt is its id; it travels between processes with what was confirmed."""
    plain, confirmed = Receipt("a"), FullReceipt("b", 1, True)
    for receipt, said in ((plain, ("a", None, None)), (confirmed, ("b", 1, True))):
        again = pickle.loads(pickle.dumps(receipt))
        assert (again, again.replicas, again.fsynced) == said
        assert isinstance(again, Receipt)


@pytest.mark.parametrize("trace", [None, 0.5])
@pytest.mark.parametrize("count", [0, 1, 500, 999, 1000, 1001, 2500])
@pytest.mark.parametrize(("size", "meta"), [(0, 0), (30, 0), (30, 200), (30, 1000), (1000, 0), (60_000, 0)])
def test_parts_are_what_one_call_may_put(count: int, size: int, meta: int, trace: float | None) -> None:
    """As ``chunks`` makes them, also where they are one without a look at each: all of it, in order."""
    q = options(max_body=1_000_000, trace=trace)
    count = min(count, 5_000_000 // (size + 1))
    ids, parts = q.parts(["x" * size] * count, {"h": {"k": "x" * meta}} if meta else {})
    found = [list(part) for part in parts]
    elements = [element for part in found for element in part]
    assert [element[env.CHECKED_FROM : env.META_FROM] for element in elements] == ids
    assert found == list(ops.chunks(elements, q.most_at_once))
