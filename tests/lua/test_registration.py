"""leave.lua, renew.lua and expired.lua alone: who is registered, and until when."""

from __future__ import annotations

from reliq.core import ops
from tests.lua.lab import BELL, Lab, element


def leave(lab: Lab, name: str, *, bell_ended: bool = True) -> bool:
    gone: bool = lab.run(ops.leave(lab.keys, name, bell_ended=bell_ended))
    return gone


def test_leave_with_empty_hands(lab: Lab) -> None:
    """Nothing in hand and the bell ended: nothing stays behind; the repeat of a goodbye is one."""
    lab.trip("a", 1)
    assert leave(lab, "a")
    assert lab.client.zscore(lab.keys.consumers, "a") is None
    assert lab.client.exists(lab.keys.inbox("a"), lab.keys.doing("a")) == 0
    assert leave(lab, "a")


def test_a_copy_of_a_trip_that_comes_after_the_goodbye(lab: Lab) -> None:
    """The connection was cut and the copy on it runs late: nothing is claimed for who is gone. What remembers
    that goes away by itself."""
    lab.trip("a", 1)
    assert leave(lab, "a")
    lab.push(element(1))
    assert lab.trip("a", 2, want=1)[0] == b"dead"
    assert lab.ready == [element(1)]
    assert lab.client.zscore(lab.keys.consumers, "a") is None
    assert 0 < lab.client.pttl(lab.keys.session("a")) <= 3_600_000


def test_leave_gives_the_inbox_back(lab: Lab) -> None:
    """What BLMOVE brought and nobody saw goes back to the head, in order, as it is, empty bodies too."""
    lab.trip("a", 1)
    lab.push(element(1), b"", BELL, b"", element(2))
    for _ in range(4):
        lab.bell("a")
    assert leave(lab, "a")
    assert lab.ready == [element(1), b"", BELL, b"", element(2)]


def test_leave_while_a_bell_may_ring(lab: Lab) -> None:
    """If a BLMOVE may still be under way the registration stays, and a reaper brings back what it catches."""
    lab.trip("a", 1)
    assert not leave(lab, "a", bell_ended=False)
    assert lab.client.zscore(lab.keys.consumers, "a") is not None
    assert lab.client.hget(lab.keys.session("a"), "leaving") == b"1"
    lab.push(element(1))
    lab.bell("a")
    lab.expire("a")
    assert lab.reap("a", dead=False).returned == 1
    assert lab.ready == [element(1)]


def test_leave_with_something_in_hand(lab: Lab) -> None:
    """A consumer that holds messages cannot disappear."""
    lab.push(element(1), element(2))
    lab.trip("a", 1, want=1)
    lab.bell("a")
    assert not leave(lab, "a")
    assert (lab.doing("a"), lab.ready) == ([element(1)], [element(2)])
    assert lab.client.zscore(lab.keys.consumers, "a") is not None


def test_mark_of_a_dead_name_outlives_its_goodbye(lab: Lab) -> None:
    """A zombie that says goodbye does not wipe out that its name is dead: a late trip changes nothing."""
    lab.trip("a", 1)
    lab.reap("a")
    assert not leave(lab, "a")
    lab.push(element(1))
    assert lab.trip("a", 2, want=1)[0] == b"dead"
    assert lab.ready == [element(1)]


def test_renew(lab: Lab) -> None:
    """A supervisor lengthens a lease, even one that is over; never that of a dead or unknown name."""
    lab.trip("a", 1)
    lab.expire("a")
    assert lab.run(ops.renew(lab.keys, "a", 15))
    assert 14_000 < lab.client.zscore(lab.keys.consumers, "a") - lab.now() <= 15_000
    assert not lab.run(ops.renew(lab.keys, "nobody", 15))
    lab.reap("a")
    end = lab.client.zscore(lab.keys.consumers, "a")
    assert not lab.run(ops.renew(lab.keys, "a", 15))
    assert lab.client.zscore(lab.keys.consumers, "a") == end
    assert lab.client.zcard(lab.keys.consumers) == 1


def test_expired(lab: Lab) -> None:
    """Names whose lease is over, longest first, page by page, or only those of late."""
    for place, name in enumerate("abcd"):
        lab.trip(name, 1)
        lab.expire(name, ago=100_000 - 20_000 * place)
    lab.trip("alive", 1)
    now, names = lab.run(ops.expired(lab.keys, 0, 10))
    assert abs(now - lab.now()) < 1000
    assert names == ["a", "b", "c", "d"]
    assert lab.run(ops.expired(lab.keys, 1, 2))[1] == ["b", "c"]
    assert lab.run(ops.expired(lab.keys, 4, 2))[1] == []
    assert lab.run(ops.expired(lab.keys, 0, 10, 70))[1] == ["c", "d"]
