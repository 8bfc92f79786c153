"""reap.lua alone: what a dead consumer held goes back, in order, once, and its neighbours are not punished."""

from __future__ import annotations

import time
from typing import Any

import pytest

from reliq.core import envelope as env
from reliq.core import ops
from tests.lua.lab import BELL, PART, Lab, element, number_of


def numbers(elements: list[bytes]) -> list[int]:
    return [number_of(e) for e in elements]


def held(lab: Lab, *elements: bytes, name: str = "a") -> None:
    """Register a consumer, with these in its processing list in the order of their claims."""
    lab.trip(name, 1)
    lab.client.rpush(lab.keys.doing(name), *elements)


def lost(element: bytes, returns: int = 1, losses: int = 1) -> bytes:
    """The element after a reap that charges it."""
    return element[:13] + returns.to_bytes(4, "big") + element[17:21] + bytes([losses]) + element[22:]


# -- whose lease is over ------------------------------------------------------------------------------------


def test_living_consumer_is_left_alone(lab: Lab) -> None:
    """A lease that runs protects what its consumer holds."""
    held(lab, element(1))
    before = lab.snapshot()
    assert lab.reap("a", dead=False) == ("alive", 0, 0, False)
    assert lab.reap("nobody", dead=False) == ("alive", 0, 0, False)
    assert lab.snapshot() == before


def test_expired_consumer_is_reaped(lab: Lab) -> None:
    """All goes back, counted as lost, ahead of what waits, in the order of the claims; the name lives on."""
    e = [element(n) for n in range(4)]
    held(lab, *e[:3])
    lab.push(e[3])
    lab.expire("a")
    assert lab.reap("a", dead=False) == ("reaped", 3, 0, False)
    assert lab.ready == [*map(lost, e[:3]), e[3]]
    assert (lab.doing("a"), lab.inbox("a")) == ([], [])
    assert [(env.unpack(x).lost, env.unpack(x).fence) for x in lab.ready[:3]] == [(1, 2)] * 3
    assert lab.trip("a", 2, in_hand=3)[:1] == [b"ok"]
    told = [(v, d) for v, _, d in lab.events()]
    assert told == [*[("reap", "lost")] * 3, ("reconcile", "0 in hand, 3 known")]
    assert lab.client.hget(lab.keys.stats, "reap") == b"3"


def test_repeat_of_a_reap_finds_nothing(lab: Lab) -> None:
    """A reap whose reply was lost can be repeated, by anybody."""
    held(lab, element(1))
    lab.expire("a")
    lab.reap("a", dead=False)
    before = lab.snapshot()
    assert lab.reap("a", dead=False) == ("reaped", 0, 0, False)
    assert lab.snapshot() == before


def test_inbox_counts_nothing(lab: Lab) -> None:
    """What BLMOVE brought was in nobody's hands: it goes back as it is; a bell disappears."""
    held(lab, element(1))
    lab.push(element(2), b"3", BELL)
    for _ in range(3):
        lab.bell("a")
    assert lab.reap("a") == ("reaped", 3, 0, False)
    assert lab.ready == [lost(element(1)), element(2), b"3"]


def test_inbox_of_bells_alone(lab: Lab) -> None:
    """Only a bell in the inbox: nothing goes back, and nothing is left."""
    lab.trip("a", 1)
    lab.push(BELL)
    lab.bell("a")
    assert lab.reap("a") == ("reaped", 0, 0, False)
    assert (lab.ready, lab.inbox("a")) == ([], [])


def test_outage_expires_nobody(lab: Lab) -> None:
    """After a change of server no lease counts as over until one whole lease has passed."""
    held(lab, element(1))
    lab.client.hset(lab.keys.session("a"), "lease", 100)
    lab.expire("a")
    for _ in range(2):
        assert lab.reap("a", dead=False, server="run1") == ("waiting", 0, 0, False)
    assert lab.reap("a", dead=False) == ("waiting", 0, 0, False)  # a caller that cannot know the run id
    time.sleep(0.11)
    assert lab.reap("a", dead=False, server="run1") == ("reaped", 1, 0, False)


def test_outage_of_a_known_server(lab: Lab) -> None:
    """The first trip after a restart starts the waiting time, too."""
    held(lab, element(1))
    lab.trip("b", 1, server="run2")
    lab.expire("a")
    assert lab.reap("a", dead=False, server="run2").status == "waiting"
    assert lab.reap("a", server="run2").status == "reaped"  # the process was seen to die


# -- dead for good ------------------------------------------------------------------------------------------


def test_dead_mark(lab: Lab) -> None:
    """A name whose process was seen to die is marked for good, and visited by every sweep from now on."""
    held(lab, element(1))
    assert lab.reap("a") == ("reaped", 1, 0, False)
    assert lab.trip("a", 2)[0] == b"dead"
    assert lab.client.zscore(lab.keys.consumers, "a") <= lab.now()
    lab.push(element(2))
    lab.client.ltrim(lab.keys.ready, 0, -2)
    lab.bell("a")  # a grandchild keeps the socket open
    assert lab.reap("a", dead=False).returned == 1


def test_dead_before_it_was_registered(lab: Lab) -> None:
    """A child that died before its first trip may have a BLMOVE under way."""
    lab.push(element(1))
    lab.bell("a")
    assert lab.reap("a") == ("reaped", 1, 0, False)
    assert lab.client.zscore(lab.keys.consumers, "a") is not None


# -- registrations ------------------------------------------------------------------------------------------


def test_stray_list_is_adopted(lab: Lab) -> None:
    """A list that nobody registered gets a lease, and is reaped when that ends."""
    lab.push(element(1), element(2))
    lab.bell("x")
    assert lab.reap("x", dead=False, lease=0.05) == ("adopted", 0, 0, False)
    assert lab.reap("x", dead=False, lease=0.05) == ("alive", 0, 0, False)
    time.sleep(0.06)
    assert lab.reap("x", dead=False, lease=0.05) == ("reaped", 1, 0, False)
    assert lab.ready == [element(1), element(2)]


def test_strays_are_found(lab: Lab) -> None:
    """The search by SCAN finds the lists of this queue and of no other."""
    other = Lab(lab.client, lab.keys.prefix, "other")
    for queue in (lab, other):
        queue.push(element(1), element(2))
        queue.bell("x" + queue.keys.queue)
        queue.trip("y" + queue.keys.queue, 1, want=1)
    found, cursor = set[str](), 0
    while True:
        cursor, names = lab.run(ops.scan_lists(lab.keys, cursor))
        found |= set(names)
        if cursor == 0:
            break
    assert found == {"xq", "yq"}


def test_forgotten_after_long(lab: Lab) -> None:
    """An empty registration goes after a day; one that holds something never does."""
    day = 86_400_000
    lab.trip("a", 1)
    held(lab, element(1), name="b")
    for name in "ab":
        lab.expire(name, ago=day - 10_000)
    assert lab.reap("a", dead=False).status == "reaped"
    for name in "ab":
        lab.expire(name, ago=day + 1)
    assert lab.reap("a", dead=False).status == "forgotten"
    assert lab.reap("b", dead=False).returned == 1
    assert lab.client.zrange(lab.keys.consumers, 0, -1) == [b"b"]
    assert lab.client.exists(lab.keys.session("a")) == 0


# -- poison -------------------------------------------------------------------------------------------------


def test_poison_is_buried(lab: Lab) -> None:
    """A message that was lost as often as the limit says is dead-lettered, with a note that can be read;
    its neighbours go on."""
    poison = element(2, returns=7, failed=1, lost=2)
    held(lab, element(1), poison, element(3))
    assert lab.reap("a", max_losses=3) == ("reaped", 2, 1, False)
    assert lab.ready == [lost(element(1)), lost(element(3))]
    [(note, back)] = lab.dead
    id = env.unpack(poison).id.hex()
    at = note.pop("at")
    assert note == {
        "id": id, "cause": "POISON", "worker": "a", "error": "its worker died 3 times while handling it",
        "n": 1000,
    }  # fmt: skip
    assert abs(at - lab.now()) < 5000
    found = env.unpack(back)
    assert (found.returns, found.failed, found.lost, found.body) == (8, 1, 3, env.unpack(poison).body)
    assert ("bury", id, "POISON") in lab.events()
    assert lab.client.hget(lab.keys.stats, "bury") == b"1"


def test_equal_poison_is_several_dead_letters(lab: Lab) -> None:
    """Somebody has pushed an envelope twice, and both are POISON in one call: two dead letters, not one."""
    poison = element(2, lost=2)
    held(lab, poison, poison)
    assert lab.reap("a", max_losses=3) == ("reaped", 0, 2, False)
    assert [back for _, back in lab.dead] == [lost(poison, losses=3)] * 2


def test_only_what_was_started_is_charged(lab: Lab) -> None:
    """With exact knowledge of what handlers had in hand, the rest counts no loss."""
    e = [element(n, lost=2) for n in range(3)]
    held(lab, *e)
    started = [env.unpack(e[1]).id]
    assert lab.reap("a", started=started, max_losses=3) == ("reaped", 2, 1, False)
    assert [(env.unpack(x).lost, env.unpack(x).fence) for x in lab.ready] == [(2, 2), (2, 2)]
    assert [env.unpack(back).id for _, back in lab.dead] == started


def test_nothing_started_charges_nothing(lab: Lab) -> None:
    """An empty list of started messages is knowledge, too; no knowledge charges all."""
    held(lab, element(1))
    lab.reap("a", started=[])
    assert [env.unpack(x).lost for x in lab.ready] == [0]
    held(lab, element(2), name="b")
    lab.reap("b")
    assert [env.unpack(x).lost for x in lab.ready] == [1, 0]


def test_undecodable_elements_stop_nothing(lab: Lab) -> None:
    """Whatever stands in a processing list goes back: other versions and garbage as they are."""
    good = element(1)
    odd = [good[:4] + b"\x02" + good[5:], b"garbage", b"", good[:-1]]
    held(lab, *odd, good)
    assert lab.reap("a", max_losses=1) == ("reaped", 4, 1, False)
    assert lab.ready == odd


def test_counters_stay_at_their_ends(lab: Lab) -> None:
    """A forged envelope with full counters neither overflows nor stops the others."""
    full = element(1, returns=0xFFFFFFFF, failed=0xFFFF, released=0xFFFF, lost=255)
    held(lab, full, element(2))
    assert lab.reap("a", started=[]).returned == 2
    assert lab.ready[0] == full


# -- bounds -------------------------------------------------------------------------------------------------


def reap_all(lab: Lab, **limits: Any) -> list[int]:
    """Call after call until nothing is left; how many went back in each."""
    counts = []
    while True:
        reaped = lab.small_reap("a", **limits)
        counts.append(reaped.returned)
        if not reaped.more:
            return counts


@pytest.mark.parametrize("elements", [1, 2, 3, 7, 100])
def test_order_is_kept_over_bounded_calls(lab: Lab, elements: int) -> None:
    """However few a call takes, at the end all stand at the head in the order of their claims."""
    e = [element(n) for n in range(12)]
    held(lab, *e[:5])
    lab.push(*e[5:])
    for _ in range(4):
        lab.bell("a")
    counts = reap_all(lab, elements=elements)
    assert max(counts) <= elements
    assert sum(counts) == 9
    assert numbers(lab.ready) == list(range(12))
    assert [env.unpack(x).lost for x in lab.ready] == [1] * 5 + [0] * 7


def test_reap_is_bounded_by_bytes(lab: Lab) -> None:
    """A thousand messages of 10 kB go back in calls of 256 kB."""
    held(lab, *(element(n, b"%05d" % n * 2000) for n in range(1000)))
    counts = []
    while True:
        reaped = lab.small_reap("a")
        counts.append(reaped.returned)
        if not reaped.more:
            break
    assert sum(counts) == 1000
    assert max(counts) <= PART // 10_000
    assert lab.client.llen(lab.keys.ready) == 1000


def test_huge_element_goes_alone(lab: Lab) -> None:
    """One element over the limit goes in a call of its own."""
    held(lab, element(1), element(2, bytes(2 * PART)), element(3))
    assert reap_all(lab) == [1, 1, 1]
    assert [env.unpack(e).id[-1] for e in lab.ready] == [1, 2, 3]


def test_thousand_small_ones_at_once(lab: Lab) -> None:
    """A call takes up to a thousand."""
    held(lab, *(element(n) for n in range(1500)))
    assert reap_all(lab) == [1000, 500]
    assert numbers(lab.ready) == list(range(1500))
