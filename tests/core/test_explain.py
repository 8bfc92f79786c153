"""What explain makes of what it found: the pace of a queue, the timeline, the search's own bookkeeping."""

from __future__ import annotations

from typing import Any

import pytest

from reliq.core import envelope as env
from reliq.core.command import Command, Flow
from reliq.core.explain import looks, queues_of
from reliq.core.explain.looks import Event, Found, glance
from reliq.core.explain.search import Progress, Search
from reliq.core.explain.timeline import timeline, untold
from reliq.core.keys import Keys
from reliq.core.ops import Known
from reliq.core.sample import LONGEST, SHORTEST, Sample, pace

ID = env.uuid7(1_700_000_000_000, b"0123456789")
NOW = Sample(1_000_000, 100, 20, 5, 1, "aa")


# -- pace ---------------------------------------------------------------------------------------------------


def then(**changes: Any) -> Sample:
    return NOW._replace(**{"ms": NOW.ms - 20_000, **changes})


def test_the_pace_is_what_left_since_a_sample() -> None:
    """Acked, failed and buried ones have left; released and reaped ones have not."""
    found = pace(NOW, [then(acked=50, failed=10, buried=5, reaped=0)])
    assert found == (3.0, 20_000, False)


@pytest.mark.parametrize("ago", [0, SHORTEST - 1, LONGEST + 1, -5_000])
def test_what_is_too_young_or_too_old_tells_nothing(ago: int) -> None:
    """A rate over a moment, or over a night, is none."""
    assert pace(NOW, [NOW._replace(ms=NOW.ms - ago, acked=0)]) is None
    assert pace(NOW, [None, None]) is None


def test_the_youngest_that_is_old_enough() -> None:
    """Of two samples the younger one counts, unless it is too young."""
    old, young = then(ms=NOW.ms - 40_000, acked=60), then(acked=80)
    assert pace(NOW, [old, young]) == (1.0, 20_000, False)
    assert pace(NOW, [old, young._replace(ms=NOW.ms - 5_000)]) == (1.0, 40_000, False)


def test_counters_that_began_anew() -> None:
    """Somebody deleted the counters: no rate, and certainly none below zero."""
    assert pace(NOW, [then(acked=101)]) is None


def test_stalled_is_proved_by_all_that_could_move() -> None:
    """Nothing settled, nothing brought back, the same head; an empty queue does not stall."""
    assert pace(NOW, [then()]) == (0.0, 20_000, True)
    for moved in ({"acked": 99}, {"failed": 19}, {"buried": 4}, {"reaped": 0}, {"head": "bb"}):
        found = pace(NOW, [then(**moved)])
        assert found is not None
        assert not found.stalled
    assert pace(NOW._replace(head=""), [then(head="")]) == (0.0, 20_000, False)


@pytest.mark.parametrize(
    "text", [None, b"", b"x", b"1 2", b"1 2 3 4 5", b"1 2 3 4 x aa", b"\xff 1 1 1 1 aa", b"1 2 3 4 5 a b"]
)
def test_what_is_no_sample_is_none(text: bytes | None) -> None:
    """Anybody may have written it."""
    assert Sample.parse(text) is None
    assert Sample.parse(b"1 2 3 4 5 ") == Sample(1, 2, 3, 4, 5, "")


# -- what an element says -----------------------------------------------------------------------------------


def test_a_glance_reads_the_first_bytes_of_a_large_message() -> None:
    """Counters, id and meta, of an envelope whose body is not there."""
    whole = env.pack(ID, b"x" * 100_000, {"t": "trace", "e": "busy"}, returns=7, failed=2, released=1, lost=3)
    seen = glance(whole[:1_000])
    assert seen._replace(element=b"", body=b"") == env.unpack(whole)._replace(element=b"", body=b"")


@pytest.mark.parametrize("head", [b"", b"raw", b"\xc1rlq\x02" + bytes(60), b"\xc1rlq\x01" + bytes(20)])
def test_a_glance_at_something_else(head: bytes) -> None:
    """Nothing is made up of a raw body, another version, or a stump."""
    assert glance(head).id == bytes(16)


def test_a_glance_at_broken_meta() -> None:
    """Meta that is cut or is no map is left out; the counters stand."""
    whole = env.pack(ID, b"", {"e": "x" * 500}, failed=2)
    assert (glance(whole[:100]).failed, glance(whole[:100]).meta) == (2, {})
    listed = whole[: env.META_FROM] + b"\x93\x01\x02\x03"
    assert glance(listed).meta == {}


# -- the timeline -------------------------------------------------------------------------------------------


def found(place: str = "ready", note: dict[str, Any] | None = None, **counters: Any) -> Found:
    element = env.pack(ID, b"1", counters.pop("meta", None), **counters)
    return Found(place, len(element), env.join_note(note, element) if note is not None else element, score=99)


def test_every_event_has_its_words() -> None:
    """Also those that are not known here, of a later release."""
    events = [
        Event(1, "retry", "w", "60000"), Event(2, "retry", "w", "soon"), Event(3, "release", "w", ""),
        Event(4, "reap", "w", "lost"), Event(5, "reap", "w", "not in hand"), Event(6, "late", "w", "ack"),
        Event(7, "bury", "w", "POISON"), Event(8, "revive", "ada", "POISON"), Event(9, "discard", "ada", ""),
        Event(10, "restore", "ada", "BURIED"), Event(11, "teleport", "w", "far away"),
    ]  # fmt: skip
    told = [each.told for each in timeline(ID, events, found())]
    assert told == [
        "put",
        "went back for 60 s",
        "went back for later",
        "given back to the head of the queue",
        "its consumer was lost with it in hand; ready again",
        "its consumer was lost, no handler had it; ready again",
        "a late ack was refused: the lease was over",
        "given up: POISON",
        "put back by a person, after POISON",
        "removed by a person",
        "imported as a dead letter: BURIED",
        "teleport far away",
    ]


def test_the_last_failure_belongs_to_the_last_retry() -> None:
    """The message knows what, the ledger knows when."""
    events = [Event(1, "retry", "a", "10"), Event(2, "retry", "b", "20"), Event(3, "release", "c", "")]
    told = timeline(ID, events, found(failed=2, meta={"e": "ValueError: no"}))
    assert [each.told for each in told][1:3] == [
        "went back for 10 ms",
        "went back for 20 ms, failed: ValueError: no",
    ]
    released = timeline(ID, events[:1], found(released=1, meta={"e": "of another time"}))
    assert released[-1].told == "went back for 10 ms"


def test_a_death_that_the_ledger_forgot() -> None:
    """The death note tells it, once."""
    dead = found("dead", {"id": ID.hex(), "cause": "ATTEMPTS", "worker": "w"})
    assert timeline(ID, [], dead)[-1] == (99, "bury", "w", "given up: ATTEMPTS")
    assert len(timeline(ID, [Event(99, "bury", "w", "ATTEMPTS")], dead)) == 2


def test_what_only_the_counters_know() -> None:
    """Attempts and losses besides those in the ledger; a revived message counts anew."""
    message = glance(found(failed=3, lost=2).head)
    assert untold(message, []) == "3 failed and 2 lost"
    assert untold(message, [Event(1, "retry", "w", "1"), Event(2, "reap", "w", "lost")]) == "2 failed and 1 lost"
    assert (
        untold(message, [Event(1, "reap", "w", "not in hand")] * 5 + [Event(1, "retry", "w", "1")] * 3) == "2 lost"
    )
    assert untold(message, [Event(1, "revive", "ada", "")]) == ""


def test_a_found_letter_is_the_message_or_only_speaks_of_it() -> None:
    """By its note, or by its envelope; not by its body."""
    assert found("dead", {"id": ID.hex()}).is_of(ID)
    other = env.pack(bytes(16), ID + ID.hex().encode())
    speaks = Found("dead", 1, env.join_note({"id": "00", "error": ID.hex()}, other))
    assert not speaks.is_of(ID)
    assert Found("dead", 1, found().head).is_of(ID), "without a note"
    assert not Found("dead", 1, b"\xc1").is_of(ID)


# -- the search ---------------------------------------------------------------------------------------------


def test_queues_of_an_index_that_anybody_wrote() -> None:
    """Names that cannot be are passed over, odd keys are left out."""
    known = [Known("a"), Known("b c"), Known("d", key="old"), Known("e", key=7), Known("f", key="")]  # type: ignore[arg-type]
    assert queues_of("p", known, but="a") == [Keys("d", "p", "old"), Keys("e", "p")]


def run(flow: Flow[Any], replies: dict[str, list[Any]]) -> tuple[Any, list[Command]]:
    """Answer each command by the next of its kind; the last one is repeated."""
    asked: list[Command] = []
    try:
        command = next(flow)
        while True:
            assert isinstance(command, Command)
            asked.append(command)
            left = replies[command.name]
            command = flow.send(left.pop(0) if len(left) > 1 else left[0])
    except StopIteration as stop:
        return stop.value, asked


SEEN = looks.NOTHING_SEEN._replace(registered=1, looked=1)
NOTHING: dict[str, list[Any]] = {
    "ZRANGE": [[("a", 1)]],
    "sight": [SEEN],
    "recall": [looks.Page((0, 0), (0, 0), 0, [])],
    "probe": [looks.Probe(0, None, 0)],
    "sift": [looks.Part(1, 0, 0, 1, None, None, None)],
    "sift_set": [looks.Members(0, 0, 0, 1, None)],
    "strays": [(0, [])],
}


def test_consumers_that_come_meanwhile_are_looked_at() -> None:
    """One that registered after the names were read may have taken the message: it is looked at, too."""
    here = found("doing")._replace(consumer="b")
    replies = NOTHING | {
        "ZRANGE": [[("a", 1)], [("a", 1), ("b", 2)]],
        "sight": [SEEN, SEEN._replace(found=[here])],
    }
    got, asked = run(Search(Keys("q"), ID).quick_g(), replies)
    assert got == here
    assert [command.args[4:] for command in asked if command.name == "sight"] == [("a",), ("b",)]


def test_nowhere_is_certain_only_if_the_ledger_is_silent() -> None:
    """An event of the message at the end of a search starts it again; for ever, it moves too fast."""
    quiet = Search(Keys("q"), ID)
    assert run(quiet.thorough_g(), NOTHING)[0] is None
    assert quiet.certain
    told = looks.Page((1, 0), (1, 0), 1, [Event(1, "release", "w", "")])
    restless = Search(Keys("q"), ID)
    got, asked = run(restless.thorough_g(), NOTHING | {"recall": [told]})
    assert got is None
    assert not restless.certain
    assert sum(command.name == "strays" for command in asked) == 20
    once = Search(Keys("q"), ID)
    run(once.thorough_g(), NOTHING | {"recall": [told, NOTHING["recall"][0]]})
    assert once.certain


def test_a_ledger_that_lets_go_of_entries_makes_nothing_certain() -> None:
    """What was written and trimmed between two reads may have been about the message: the search starts again."""
    page = looks.Page((5, 0), (9, 0), 4, [])
    search = Search(Keys("q"), ID, events=[], _last=(9, 0))
    run(search.thorough_g(), NOTHING | {"recall": [page, page]})
    assert search.certain, "the oldest is older than what was read last"
    search = Search(Keys("q"), ID, _last=(9, 0))
    _, asked = run(search.thorough_g(), NOTHING | {"recall": [looks.Page((10, 0), (12, 0), 3, []), page]})
    assert search.certain
    assert sum(command.name == "strays" for command in asked) == 2


def test_a_long_search_reads_the_ledger_on_its_way() -> None:
    """So that it is read before it lets go what is new."""
    parts = [looks.Part(1, 200_000, 1_000, 50, 1, 1, None)] * 199 + [looks.Part(1, 200_000, 1_000, 50, 1, 1, None)]
    search = Search(Keys("q"), ID)
    _, asked = run(search.thorough_g(), NOTHING | {"sift": [*parts]})
    assert sum(command.name == "recall" for command in asked) == 1 + 203 // 50
    assert search.certain


def test_the_order_of_a_search_is_the_one_that_makes_it_certain() -> None:
    """Lists of nobody, later, ready, hands, dead, ledger."""
    _, asked = run(Search(Keys("q"), ID).thorough_g(), NOTHING)
    assert [command.name for command in asked] == [
        *("strays", "sift_set", "sift", "ZRANGE", "sight", "ZRANGE", "sift_set", "recall"),
    ]


def test_several_looks_into_hands_are_taken_twice() -> None:
    """With more consumers than one look can name: what passes between them in that time is met the second time."""
    names = [(f"c{n}", n) for n in range(250)]
    full = SEEN._replace(registered=250)
    sights = [full._replace(looked=n) for n in (100, 100, 50, 100, 100)]
    here = found("doing")._replace(consumer="c249")
    replies = NOTHING | {"ZRANGE": [names], "sight": [*sights, full._replace(looked=50, found=[here])]}
    assert run(Search(Keys("q"), ID).thorough_g(), replies)[0] == here


def test_progress_is_told() -> None:
    """Of each place, with how much there is."""
    told: list[Progress] = []
    parts = [looks.Part(1, 1_500, 1_000, 50, 1, 1, None), looks.Part(1, 1_500, 500, 50, 1, 1, None)]
    run(Search(Keys("q"), ID, told.append).thorough_g(), NOTHING | {"sift": parts})
    assert [each for each in told if each.place == "ready"] == [
        *(("q", "ready", 1_000, 1_500), ("q", "ready", 1_500, 1_500)),
    ]
    assert {each.place for each in told} == {"keys", "later", "ready", "dead"}


def test_steps_of_a_traced_message_stand_among_the_events() -> None:
    """By time; within one ms a message fails before it goes back, and is delivered again after that."""
    events = [Event(5, "retry", "a", "0"), Event(9, "reap", "a", "lost")]
    steps = [
        Event(1, "put", "web:7", "shop.py"),
        Event(5, "deliver", "a", "0.4 1"),
        Event(5, "fail", "a", "0.2 ValueError: no"),
        Event(9, "deliver", "a", "4.9 2"),
        Event(9, "deliver", "b", "0.1 2"),
        Event(12, "ack", "b", "2.5"),
    ]
    told = timeline(ID, events, None, steps)
    assert [(each.at, each.event) for each in told] == [
        *((1, "put"), (5, "deliver"), (5, "fail"), (5, "retry")),
        *((5, "deliver"), (9, "reap"), (9, "deliver"), (12, "ack")),
    ]
    assert told[0].told == "put by web:7 shop.py"
    assert told[-1].told == "acked, 2.5 ms after that"
