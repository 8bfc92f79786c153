"""What two snapshots of the user's world have not in common: what doubled, what is missing, what is different.

Numbers are compared with what they were before, so that 2 instead of 1 has doubled, and 100 instead of 80 was
never taken off. Of lists and sets each element counts; the order of a list only if it is asked for, that of a
tuple always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from numbers import Number
from typing import Any, Final, NamedTuple

DOUBLED, MISSING, EXTRA, DIFFERS = "doubled", "missing", "extra", "differs"


class Difference(NamedTuple):
    """One. ``place``: where in the snapshot, as in ["ada"]; empty: all of it."""

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.place + ' ' if self.place else ''}{self.text}"


class _Absent:
    def __repr__(self) -> str:
        return "not there"


_ABSENT: Final = _Absent()


def same(wanted: Any, got: Any, *, ordered: bool) -> bool:
    """Whether two snapshots are as good as equal."""
    if wanted == got:
        return True
    return not ordered and _loose(wanted) == _loose(got)


def differences(before: Any, wanted: Any, got: Any, *, ordered: bool) -> list[Difference]:
    """Of ``got`` from ``wanted``; ``before``: how it was in the beginning."""
    return [] if same(wanted, got, ordered=ordered) else list(_compare("", before, wanted, got, ordered))


def _compare(place: str, before: Any, wanted: Any, got: Any, ordered: bool) -> Iterator[Difference]:
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        first = before if isinstance(before, Mapping) else {}
        for key in {**wanted, **got}:
            was, should, is_ = (each.get(key, _ABSENT) for each in (first, wanted, got))
            if not same(should, is_, ordered=ordered):
                yield from _compare(f"{place}[{key!r}]", was, should, is_, ordered)
    elif got is _ABSENT:
        yield Difference(MISSING, place, f"is not there, should be {_short(wanted)}")
    elif _is_number(wanted) and _is_number(got):
        yield _number(place, before, wanted, got)
    elif isinstance(wanted, str) and isinstance(got, str) and ("\n" in wanted + got):
        yield from _each(place, wanted.splitlines(), got.splitlines(), True)
    elif _are_many(wanted, got):
        yield from _each(place, wanted, got, ordered)
    elif wanted is _ABSENT:
        yield Difference(EXTRA, place, f"is {_short(got)}, should not be there")
    else:
        yield Difference(DIFFERS, place, f"is {_short(got)}, should be {_short(wanted)}")


def _number(place: str, before: Any, wanted: Any, got: Any) -> Difference:
    start = before if _is_number(before) else type(wanted)(0)
    step, over = wanted - start, got - wanted
    kind = DIFFERS
    if step and (over > 0) == (step > 0):
        kind = DOUBLED
    elif step:
        kind = MISSING
    return Difference(kind, place, f"is {got!r}, should be {wanted!r}")


def _each(place: str, wanted: Iterable[Any], got: Iterable[Any], ordered: bool) -> Iterator[Difference]:
    should, are = list(wanted), list(got)
    found = False
    for one in _distinct([*should, *are]):
        n, m = should.count(one), are.count(one)
        if n != m:
            found = True
            kind = MISSING if m < n else DOUBLED if n else EXTRA
            yield Difference(kind, place, f"{_short(one)} is there {_times(m)}, should be {_times(n)}")
    if not found and ordered:
        yield Difference(DIFFERS, place, f"is in another order: {_short(are)}, should be {_short(should)}")


def _distinct(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _are_many(wanted: Any, got: Any) -> bool:
    kinds = (list, tuple, set, frozenset)
    return isinstance(wanted, kinds) and isinstance(got, kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool | complex)


def _loose(value: Any) -> Any:
    """The same for lists that differ in their order alone."""
    if isinstance(value, Mapping):
        return {key: _loose(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_loose(each) for each in value), key=repr)
    return value


def _times(n: int) -> str:
    return {0: "not at all", 1: "once", 2: "twice"}.get(n, f"{n} times")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"
