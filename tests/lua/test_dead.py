"""The three scripts for dead letters, the walk that finds them, and `page` under it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

import reliq
from reliq import defaults
from reliq.core import dead
from reliq.core import envelope as env
from reliq.core.dead import Letter
from reliq.core.walk import TOGETHER, ListWalk, Member, SortedWalk
from tests.lua.lab import PART, Lab, element, number_of

_numbers = itertools.count(1)


def buried(lab: Lab, e: bytes, cause: str = "ATTEMPTS", at: float = 1000, **note: Any) -> Letter:
    """Put a letter among the dead."""
    id = e[23:39].hex() if env.is_envelope(e) else "f" * 32
    member = env.join_note({"id": id, "cause": cause, "worker": "a", "n": next(_numbers), **note}, e)
    lab.client.zadd(lab.keys.dead, {member: at})
    return Letter.read(member, repr(at))


def flow(lab: Lab, steps: Any) -> Any:
    """Drive a flow on the server of the lab."""
    at = lab.client.connection_pool.connection_kwargs
    with reliq.Queue("q", f"redis://{at['host']}:{at['port']}/0", prefix=lab.keys.prefix) as queue:
        return queue.links.flow(steps)


def walked(lab: Lab, walk: Any) -> Iterator[Any]:
    """What a walk meets."""
    while not walk.done:
        yield from flow(lab, walk.step_g())


def letters(lab: Lab, **period: int) -> list[Letter]:
    return list(walked(lab, dead.LetterWalk(lab.keys, **period)))


# -- revive -------------------------------------------------------------------------------------------------


def test_revived_stand_behind_what_waits(lab: Lab) -> None:
    """The first one named is claimed first, and none of them before what is ready."""
    lab.push(element(1), element(2))
    dying = [buried(lab, element(n)) for n in (10, 11, 12)]
    assert lab.run(dead.revive(lab.keys, "me", dying)) == [True] * 3
    assert [number_of(e) for e in lab.ready] == [1, 2, 10, 11, 12]
    assert lab.dead == []


def test_attempts_begin_anew_and_the_fence_goes_on(lab: Lab) -> None:
    """failed and released are 0, returns is one more; the immutable part is untouched."""
    old = element(1, returns=6, failed=5, released=1)
    lab.run(dead.revive(lab.keys, "me", [buried(lab, old)]))
    [back] = lab.ready
    found, before = env.unpack(back), env.unpack(old)
    assert (found.returns, found.failed, found.released, found.lost) == (7, 0, 0, 0)
    assert found.fence > before.fence
    assert back[env.CHECKED_FROM :] == old[env.CHECKED_FROM :]


def test_what_workers_died_with_stays_a_suspect(lab: Lab) -> None:
    """A revived POISON message has one loss, so that it is handed out alone, and two more deaths before it."""
    lab.run(dead.revive(lab.keys, "me", [buried(lab, element(1, returns=3, lost=3), "POISON")]))
    lab.push(element(2))
    [claimed] = lab.trip("a", 1, want=2)[9]
    assert (env.unpack(claimed).lost, number_of(claimed)) == (1, 1)
    assert lab.reap("a", max_losses=3) == ("reaped", 1, 0, False)


def test_unread_elements_go_back_as_they_are(lab: Lab) -> None:
    """Another version, a wrong length, raw bytes, no bytes: what is not understood is not bumped."""
    good = element(1)
    newer = good[:4] + b"\x02" + good[5:]
    for e in (newer, b"garbage", b""):
        assert lab.run(dead.revive(lab.keys, "me", [buried(lab, e, "UNSUPPORTED_VERSION")])) == [True]
        assert lab.ready == [e]
        lab.client.delete(lab.keys.ready)


def test_revived_once(lab: Lab) -> None:
    """A repeat, by anybody, finds nothing to do; so does a ghost after the message has died again."""
    letter = buried(lab, element(1))
    command = dead.revive(lab.keys, "me", [letter])
    assert lab.run(command) == [True]
    before = lab.snapshot()
    assert lab.run(command) == [False]
    assert lab.snapshot() == before
    [claimed] = lab.trip("a", 1, want=1)[9]
    again = env.join_note(letter.note, env.bump(env.unpack(claimed), failed=1))
    lab.trip("a", 2, in_hand=1, settles=[("bury", claimed, again, "ATTEMPTS")])
    assert lab.run(command) == [False]
    assert lab.client.zrange(lab.keys.dead, 0, -1) == [again]


def test_only_what_is_there_is_revived(lab: Lab) -> None:
    """Of several, those that are no longer dead are told apart, and the others go all the same."""
    here, gone, other = (buried(lab, element(n)) for n in range(3))
    lab.client.zrem(lab.keys.dead, gone.member)
    assert lab.run(dead.revive(lab.keys, "me", [here, gone, other])) == [True, False, True]
    assert [number_of(e) for e in lab.ready] == [0, 2]


def test_an_element_that_begins_nowhere_writes_nothing(lab: Lab) -> None:
    """All arguments are looked at before the first write."""
    good, bad = buried(lab, element(1)), buried(lab, element(2))
    before = lab.snapshot()
    with pytest.raises(Exception, match="no element begins"):
        lab.reply(dead.revive(lab.keys, "me", [good, bad._replace(start=len(bad.member) + 1)]))
    assert lab.snapshot() == before


@pytest.mark.parametrize("verb", ["revive", "discard", "restore"])
def test_each_is_in_the_ledger(lab: Lab, verb: str) -> None:
    """What a person did to a message stands there, with the cause that it had, and is counted."""
    letter = buried(lab, element(1), "BURIED")
    if verb == "restore":
        lab.client.delete(lab.keys.dead)
    lab.run(getattr(dead, verb)(lab.keys, "me", [letter]))
    assert lab.events() == [(verb, letter.id, "BURIED")]
    assert lab.client.xrange(lab.keys.events)[0][1][b"consumer"] == b"me"
    assert lab.client.hget(lab.keys.stats, verb) == b"1"


@pytest.mark.parametrize("verb", ["revive", "discard", "restore"])
def test_a_lost_answer_is_told_by_the_ledger(lab: Lab, verb: str) -> None:
    """The second try of the same call finds nothing to do, and still says that it was done; others' was not."""
    mine, theirs = buried(lab, element(1)), buried(lab, element(2))
    if verb == "restore":
        lab.client.delete(lab.keys.dead)
    make = getattr(dead, verb)
    lab.run(make(lab.keys, "me", [mine]))
    lab.run(make(lab.keys, "they", [theirs]))
    assert flow(lab, dead.carry_out_g(lab.keys, make, "me", [mine, theirs])) == [True, False]


def test_a_full_call_is_quick(lab: Lab) -> None:
    """The largest call of each verb holds Redis for some ms; twenty times of what is measured are allowed."""
    some = [buried(lab, element(n)) for n in range(dead.TOGETHER)]
    for verb in (dead.discard, dead.restore, dead.revive):
        started = time.perf_counter()
        assert all(lab.run(verb(lab.keys, "me", some)))
        assert time.perf_counter() - started < 0.1


def test_calls_are_bounded(lab: Lab) -> None:
    """Chunks keep the order, and to the bounds in number and bytes; one larger letter goes alone."""
    some = [buried(lab, element(n, "x" * (3 * PART if n == 7 else 5))) for n in range(250)]
    parts = list(dead.chunks(some))
    assert [letter for part in parts for letter in part] == some
    assert max(map(len, parts)) <= dead.TOGETHER
    assert [part for part in parts if some[7] in part] == [[some[7]]]
    assert [len(part) for part in dead.chunks(some[10:20], 4)] == [4, 4, 2]


# -- discard and restore ------------------------------------------------------------------------------------


def test_exactly_one_letter_is_discarded(lab: Lab) -> None:
    """Equal messages are several letters; one goes, the other stays."""
    one, other = buried(lab, element(1)), buried(lab, element(1))
    assert lab.run(dead.discard(lab.keys, "me", [one])) == [True]
    assert letters(lab) == [other]


def test_restored_byte_by_byte(lab: Lab) -> None:
    """Whatever stood among the dead comes back with its bytes and its time, also what is no letter."""
    odd = {b"": 1.5, b"\xc1\xff no note": float("inf"), b"\x81\xa2id\xc4\x01\xff": -3.0}
    lab.client.zadd(lab.keys.dead, odd)
    buried(lab, element(1))
    before = lab.client.zrange(lab.keys.dead, 0, -1, withscores=True)
    found = letters(lab)
    assert len(found) == 4
    lab.client.delete(lab.keys.dead)
    assert lab.run(dead.restore(lab.keys, "me", found)) == [True] * 4
    assert lab.client.zrange(lab.keys.dead, 0, -1, withscores=True) == before


def test_restored_once(lab: Lab) -> None:
    """A repeat within the window adds nothing: while the letter is there, and after it was revived."""
    letter = buried(lab, element(1))
    command = dead.restore(lab.keys, "me", [letter])
    assert lab.run(command) == [False]
    lab.client.delete(lab.keys.dead)
    assert lab.run(command) == [True]
    lab.run(dead.revive(lab.keys, "me", [letter]))
    assert lab.run(command) == [False]
    assert (lab.ready, lab.dead) == ([element(1, returns=1)], [])


def test_what_was_revived_is_not_restored_beside_itself(lab: Lab) -> None:
    """Export, revive, import: the message lives, so its letter is not taken in."""
    letter = buried(lab, element(1))
    lab.run(dead.revive(lab.keys, "me", [letter]))
    assert lab.run(dead.restore(lab.keys, "me", [letter])) == [False]


def test_restored_after_a_removal(lab: Lab) -> None:
    """Export, import, rm: the same export can be imported again at once."""
    letter = buried(lab, element(1))
    for _ in range(2):
        assert lab.run(dead.discard(lab.keys, "me", [letter])) == [True]
        assert lab.run(dead.restore(lab.keys, "me", [letter])) == [True]


def test_the_marker_ends(lab: Lab) -> None:
    """It stands for the dedupe window, not for ever."""
    letter = buried(lab, element(1))
    lab.client.delete(lab.keys.dead)
    lab.run(dead.restore(lab.keys, "me", [letter]))
    [marker] = lab.client.keys(lab.keys._of("seen:*"))
    assert 0 < lab.client.pttl(marker) <= defaults.DEDUPE_WINDOW * 1000


@pytest.mark.parametrize("score", ["soon", "nan", ""])
def test_no_time_of_death_writes_nothing(lab: Lab, score: str) -> None:
    """A score that is no number is refused before the first write."""
    letter = Letter.read(env.join_note({"id": "1" * 32}, element(1)), score)
    with pytest.raises(Exception, match="no time of death"):
        lab.reply(dead.restore(lab.keys, "me", [letter._replace(score="1"), letter]))
    assert lab.snapshot() == {}


# -- identity -----------------------------------------------------------------------------------------------


def test_identity_is_that_of_the_message() -> None:
    """Counters and the last error change nothing; another id, body or put is another message."""
    one = env.unpack(env.pack(bytes(range(16)), b"x", {"p": 1}))
    later = env.unpack(env.bump(one, failed=1, meta={**one.meta, "e": "ValueError"}))
    same = dead.identity(one.element)
    assert dead.identity(later.element) == dead.identity(env.bump(later, lost=1)) == same
    others = [
        env.pack(bytes(16), b"x", {"p": 1}),
        env.pack(one.id, b"y", {"p": 1}),
        env.pack(one.id, b"x", {"p": 2}),
        b"raw",
        b"",
    ]
    assert len({same, *map(dead.identity, others)}) == 1 + len(others)


def test_letters_without_an_id_have_one(lab: Lab) -> None:
    """Every member can be named: by the id of its note, else by one that its bytes give."""
    lab.client.zadd(lab.keys.dead, {b"\xc1 no note": 1, env.join_note({"id": "short"}, b"raw"): 2})
    found = letters(lab)
    assert [len(bytes.fromhex(letter.id)) for letter in found] == [16, 16]
    assert [letter.cause for letter in found] == ["BAD_NOTE", ""]
    assert found[0].element == b"\xc1 no note"


# -- walks --------------------------------------------------------------------------------------------------


def test_a_walk_meets_all_in_bounded_steps(lab: Lab) -> None:
    """Many of one score, and large ones among small ones; no step is larger than it may be."""
    members = {b"%05d" % n: 7 if n % 3 else n for n in range(2500)}
    members |= {b"large %d" % n + bytes(PART // 3): 7 for n in range(9)} | {b"huge" + bytes(3 * PART): 7}
    for part in (list(members.items())[i : i + 500] for i in range(0, len(members), 500)):
        lab.client.zadd(lab.keys.dead, dict(part))
    walk, met = SortedWalk(lab.keys.dead), list[Member]()
    while not walk.done:
        step = flow(lab, walk.step_g())
        assert len(step) <= TOGETHER
        assert sum(len(m.value) for m in step) <= PART or len(step) == 1
        met += step
    assert len(met) == len(members)
    assert {m.value: float(m.score) for m in met} == members
    assert [float(m.score) for m in met] == sorted(members.values())


def test_a_walk_in_a_period(lab: Lab) -> None:
    """since and until bound it, both included."""
    for at in range(10):
        buried(lab, element(at), at=at)
    assert [letter.at for letter in letters(lab, since=3, until=5)] == [3, 4, 5]


@pytest.mark.parametrize("where", ["before", "behind", "the last one", "added"])
def test_a_walk_while_others_change_it(lab: Lab, where: str) -> None:
    """Whoever comes or goes between two steps, of those that stay none is passed over or met twice."""
    half = PART // 2
    all_of_one = [b"%d" % n + bytes(half) for n in range(5)]  # two a step, all of one score
    lab.client.zadd(lab.keys.dead, dict.fromkeys(all_of_one, 1) | {b"end": 2})
    walk = SortedWalk(lab.keys.dead)
    met = [m.value for m in flow(lab, walk.step_g())]
    assert met == all_of_one[:1]
    met += [m.value for m in flow(lab, walk.step_g())]
    gone = {"before": all_of_one[0], "behind": all_of_one[3], "the last one": all_of_one[1]}.get(where)
    if gone is None:
        lab.client.zadd(lab.keys.dead, {b"0a": 1})
    else:
        lab.client.zrem(lab.keys.dead, gone)
    met += [m.value for m in walked(lab, walk)]
    assert [m for m in met if m != b"0a"] == [m for m in [*all_of_one, b"end"] if m != gone or where != "behind"]


def test_a_walk_through_a_list_passes_nothing_over(lab: Lab) -> None:
    """Puts and claims between its steps: what stays is met, with the place that it had then."""
    e = [element(n) for n in range(1500)]
    lab.push(*e)
    walk = ListWalk(lab.keys.ready)
    met = flow(lab, walk.step_g())
    assert len(met) == TOGETHER
    lab.push(element(9000), element(9001))
    lab.client.ltrim(lab.keys.ready, 0, -101)  # the hundred oldest are claimed
    met += list(walked(lab, walk))
    numbers = [number_of(x) for _, x in met]
    assert set(numbers) == set(range(100, 1500))
    assert [place for place, x in met if number_of(x) == 1499] == [0]


def test_other_types_are_no_walk(lab: Lab) -> None:
    """A key of another type is an error, not an end."""
    lab.client.set(lab.keys.dead, "foreign")
    with pytest.raises(Exception, match="WRONGTYPE"):
        letters(lab)
