"""When schedules tick, which ticks get a message, and that any interleaving of those who fire gives each tick
once."""

from __future__ import annotations

import sys
from bisect import bisect_right
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliq import Retry, defaults
from reliq.core import envelope as env
from reliq.core import schedule, timing
from reliq.core.schedule import Definition, Tick, id_of, tick_of
from reliq.core.timing import Timing
from reliq.errors import BodyTooLarge, ConfigError, DecodeError

VIENNA = "Europe/Vienna"
GRACE = round(defaults.TICK_GRACE * 1000)
NOW = 1_800_000_000_000


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    """The Unix ms of a local time."""
    time = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return round(time.timestamp() * 1000)


def local(times: list[int], zone: str = VIENNA) -> list[str]:
    return [f"{datetime.fromtimestamp(at / 1000, ZoneInfo(zone)):%d %H:%M %z}" for at in times]


def ticks(when: Timing, after: int, count: int) -> list[int]:
    found: list[int] = []
    at: int | None = after
    for _ in range(count):
        assert at is not None
        at = when.after(at)
        assert at is not None
        found.append(at)
    return found


def definition(when: Timing, catch_up: str = "last", jitter: int = 0) -> Definition:
    return Definition(when, catch_up, jitter, {}, b"\xc0")


def cron(expression: str, tz: str = "UTC") -> Timing:
    return timing.checked(expression, None, tz)


SECONDS = Timing(None, 1000, "UTC")
MINUTES = Timing(None, 60_000, "UTC")

# -- timing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        # 29 March 2026: 02:00 +01:00 becomes 03:00 +02:00
        ("30 2 * * *", "2026-03-28 12:00", ["29 03:00 +0200", "30 02:30 +0200"]),
        ("30 3 * * *", "2026-03-28 12:00", ["29 03:30 +0200", "30 03:30 +0200"]),
        ("0 * * * *", "2026-03-29 00:30", ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]),
        ("0,30 2,3 * * *", "2026-03-29 00:30", ["29 03:00 +0200", "29 03:30 +0200", "30 02:00 +0200"]),
        ("0 30 2 * * *", "2026-03-28 12:00", ["30 02:30 +0200"]),
        # 25 October 2026: 03:00 +02:00 becomes 02:00 +01:00
        ("30 2 * * *", "2026-10-24 12:00", ["25 02:30 +0200", "26 02:30 +0100"]),
        ("0 * * * *", "2026-10-25 01:30", ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"]),
        ("*/30 * * * *", "2026-10-25 02:10", ["25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100"]),
        ("0-59 2 * * *", "2026-10-25 02:58", ["25 02:59 +0200", "26 02:00 +0100"]),
    ],
)
def test_over_changes_of_the_clock(expression: str, start: str, expected: list[str]) -> None:
    """As Debian's cron: a time that there is not comes right after the gap, one that there is twice comes once,
    and what comes every hour comes every hour."""
    assert local(ticks(cron(expression, VIENNA), ms(start, VIENNA), len(expected))) == expected


def test_in_the_hour_that_comes_again_nothing_comes_twice() -> None:
    """Asked in the second of the two hours, the job of the first one comes the next day."""
    again = ms("2026-10-25 02:10", VIENNA, fold=1)
    assert local(ticks(cron("30 2 * * *", VIENNA), again, 1)) == ["26 02:30 +0100"]


@pytest.mark.parametrize(
    "expression", ["30 2 * * *", "0,30 2,3 * * *", "*/20 * * * *", "0 0 L * *", "15 10 2 * * SUN"]
)
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_the_last_tick_is_one_of_those_that_come(expression: str, day: str) -> None:
    """Looked for from any moment of a night with a change, it is the last one that ``after`` has passed."""
    when, start = cron(expression, VIENNA), ms(f"{day} 00:00", VIENNA)
    end = start + 5 * 3_600_000
    known = ticks(when, start - 40 * 86_400_000, 3500 if "*/20" in expression else 200)
    assert known[-1] > end
    for now in range(start, end, 7 * 60_000 + 13):
        assert when.last(now) == known[bisect_right(known, now) - 1]


@given(st.integers(1000, 10**9), st.integers(0, 2**42))
def test_intervals_tick_at_their_multiples(every: int, now: int) -> None:
    """Whoever asks whenever finds the same ticks."""
    when = Timing(None, every, "UTC")
    last, following = when.last(now), when.after(now)
    assert last is not None
    assert following is not None
    assert last <= now < following == last + every
    assert last % every == 0


@given(
    st.sampled_from(
        ["* * * * *", "*/7 3-5 * * *", "30 2 * * *", "5 4 * * SUN", "10 20 */6 1,15 * *", "0 0 29 2 *"]
    ),
    st.sampled_from(["UTC", VIENNA, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.integers(ms("2020-01-01 00:00"), ms("2030-01-01 00:00")),
)
def test_ticks_only_go_forward(expression: str, tz: str, now: int) -> None:
    """Each tick is after the one before, whatever the clocks do, and nothing lies between two that are
    neighbours."""
    when = cron(expression, tz)
    found = [now, *ticks(when, now, 5)]
    for before, tick in pairwise(found):
        assert before < tick
        assert when.after(tick - 1) == tick
        assert when.last(tick) == tick


def test_a_long_gap_is_no_long_way() -> None:
    """The last tick of thirty years of seconds is found at once, not second by second."""
    when = cron("* * * * * *")
    assert when.last(NOW + 999) == NOW
    [step] = definition(when).steps(NOW - 30 * 365 * 86_400_000, NOW + 5)
    assert step == Tick(NOW - 30 * 365 * 86_400_000, NOW + 1000, NOW)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "give one of them"),
        ({"cron": "* * * * *", "every": 5}, "give one of them"),
        ({"cron": "* * * *"}, "Wrong number of fields"),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "* * 30 2 *"}, "Bad day-of-month"),
        ({"cron": "* * L/2/3 * 5L#"}, "cron="),
        ({"cron": 5}, "a text of 5 fields"),
        ({"every": 0.5}, "from 1 to"),
        ({"every": True}, "seconds"),
        ({"every": "5"}, "seconds"),
        ({"every": 4e7}, "366 days"),
        ({"every": float("nan")}, "seconds"),
        ({"every": 5, "tz": "Mars/Olympus"}, "tzdata"),
        ({"every": 5, "tz": "../etc/passwd"}, "tzdata"),
        ({"every": 5, "tz": "Europe"}, "tzdata"),
        ({"every": 5, "tz": None}, "time zone"),
    ],
)
def test_what_is_no_timing(given: dict[str, object], says: str) -> None:
    """ConfigError names what was given and what is wrong with it."""
    with pytest.raises(ConfigError, match=says):
        timing.checked(**{"cron": None, "every": None, "tz": "UTC", **given})  # type: ignore[arg-type]


def test_without_cronsim(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; intervals go without it."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    timing._after.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'reliq\[cron\]'"):
        timing.checked("* * * * *", None, "UTC")
    assert timing.checked(None, 5, VIENNA).after(NOW) == NOW + 5000


# -- which ticks get a message ------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", ["last", "all", "none"])
@pytest.mark.parametrize("late", [0, 1, GRACE - 1, GRACE])
def test_a_little_late_is_not_missed(catch_up: str, late: int) -> None:
    """A crash or a failover loses no tick, whatever the policy: each has its message."""
    steps = list(definition(SECONDS, catch_up).steps(NOW, NOW + late))
    assert [step.fires for step in steps] == list(range(NOW, NOW + late + 1, 1000))
    assert [(a.following, b.at) for a, b in pairwise(steps)] == [(step.at, step.at) for step in steps[1:]]


def test_missed_ticks() -> None:
    """After a longer gap: one message for the last, one for each, or none."""
    end = NOW + 10 * 60_000 + 59_000
    [last] = definition(MINUTES, "last").steps(NOW, end)
    assert last == Tick(NOW, NOW + 11 * 60_000, NOW + 10 * 60_000)
    assert [step.fires for step in definition(MINUTES, "all").steps(NOW, end)] == list(range(NOW, end, 60_000))
    [fresh] = definition(MINUTES, "none").steps(NOW, end)
    assert fresh == last  # 59 s are no gap
    hourly = Timing(None, 3_600_000, "UTC")
    [none] = definition(hourly, "none").steps(NOW, NOW + GRACE + 1)
    assert none == Tick(NOW, NOW + 3_600_000, None)
    assert list(definition(hourly, "none").steps(NOW, NOW - 1)) == []


@given(
    st.sampled_from(["last", "all", "none"]),
    st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=40),
)
def test_any_interleaving_gives_each_tick_once(catch_up: str, plan: list[tuple[int, int, int]]) -> None:
    """Several schedulers read at some time, and fire what they have read at another, or die before: by the
    compare-and-set of the script no tick is fired twice, and with "all" none is left out."""
    made = definition(Timing(None, 7000, "UTC"), catch_up)
    at: int | None = made.timing.after(NOW)
    first, now = at, NOW
    hands: dict[int, list[Tick]] = {}
    fired: list[int] = []

    def fire(steps: list[Tick]) -> None:
        nonlocal at
        for step in steps:
            if step.at == at:  # what fire.lua compares
                at = step.following
                fired.extend([] if step.fires is None else [step.fires])

    for wait, who, action in plan:
        now += wait
        assert at is not None
        if action <= 2:
            hands[who] = list(made.steps(at, now))
        elif action == 3:
            hands.pop(who, None)
        else:
            fire(hands.get(who, []))  # and again: a repeat
    assert at is not None
    fire(list(made.steps(at, now)))
    assert fired == sorted(set(fired))
    assert all(tick % 7000 == 0 and tick <= now for tick in fired)
    if catch_up == "all":
        assert first is not None
        assert fired == list(range(first, now + 1, 7000))


# -- what they look like ------------------------------------------------------------------------------------


def test_whoever_makes_a_message_makes_the_same() -> None:
    """Id, bytes and due time follow from the name, the tick and the definition alone."""
    made = definition(SECONDS, jitter=5000)
    read = Definition.read("s", made.pack())
    assert read == made
    id = id_of("q", "s", NOW)
    element = made.element(id, "s", NOW)
    assert element == read.element(id, "s", NOW)
    assert made.due("s", NOW) == read.due("s", NOW)
    envelope = env.unpack(element)
    assert (envelope.id, env.put_ms(envelope), tick_of(envelope.meta)) == (id, NOW, ("s", NOW))
    names = [("q", "s", NOW), ("r", "s", NOW), ("q", "t", NOW), ("q", "s", NOW + 1)]
    assert len({id_of(*which) for which in names}) == 4
    assert env.unpack(made.element(id, "s", NOW, traced=True)).meta["x"] == 1


def test_jitter_spreads() -> None:
    """All within its length, over all of it, another share for each tick and name; without it, right at the
    tick."""
    made = definition(SECONDS, jitter=1000)
    shares = [made.due("s", NOW + tick * 1000) - (NOW + tick * 1000) for tick in range(1000)]
    assert 0 <= min(shares) < 20
    assert 980 < max(shares) < 1000
    assert len(set(shares)) > 500
    assert made.due("t", NOW) != made.due("s", NOW)
    assert definition(SECONDS).due("s", NOW) == NOW


@pytest.mark.parametrize(
    "packed",
    [b"", b"\xc1", b"\x80", definition(SECONDS).pack()[:-1], b"\x81\xa4cron\x01"]
    + [
        definition(SECONDS)._replace(**change).pack()
        for change in ({"catch_up": "x"}, {"jitter": -1}, {"timing": Timing("* *", None, "UTC")})
    ],
)
def test_a_definition_that_cannot_be_read(packed: bytes) -> None:
    """DecodeError names the schedule."""
    with pytest.raises(DecodeError, match="schedule 'report'"):
        Definition.read("report", packed)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, None, 5])
def test_names_that_are_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        schedule.checked_name(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"catch_up": "some"}, ConfigError),
        ({"jitter": -1}, ConfigError),
        ({"jitter": True}, ConfigError),
        ({"jitter": 1e6}, ConfigError),
        ({"retry": Retry(on_dead=print)}, ConfigError),
        ({"body": bytes(defaults.CLAIM_CHECK + 1)}, BodyTooLarge),
    ],
)
def test_definitions_that_are_refused(change: dict[str, object], error: type[Exception]) -> None:
    """What cannot be is said when it is scheduled, not at the first tick."""
    given = {"when": SECONDS, "catch_up": "last", "jitter": 0, "retry": None, "codec_name": "json", "body": b"1"}
    assert schedule.define(**given).meta == {"c": "json"}  # type: ignore[arg-type]
    with pytest.raises(error):
        schedule.define(**{**given, **change})  # type: ignore[arg-type]


def test_next_times() -> None:
    """In the zone of the schedule, milliseconds and all."""
    when = Timing(None, 1500, VIENNA)
    shown = schedule.shown("s", definition(when), NOW + 1500, None)
    first = datetime.fromtimestamp(NOW / 1000 + 1.5, timezone.utc)
    assert shown.next_times(3) == [first, first + timedelta(seconds=1.5), first + timedelta(seconds=3)]
    assert str(shown.next_times(1)[0].tzinfo) == VIENNA
    assert shown.next_at == first


@pytest.mark.parametrize(
    "meta", [{}, {"k": 1}, {"k": ["a"]}, {"k": ["a", "b"]}, {"k": [1, 2]}, {"k": ["a", True]}]
)
def test_messages_of_no_tick(meta: dict[str, object]) -> None:
    """What a foreign producer writes there is no tick."""
    assert tick_of(meta) is None
