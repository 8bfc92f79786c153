"""What the reply to a script looks like, so that anything else is not taken for one.

A shape is a type; a frozenset of the values that there are; or the shapes of a list's items, in order, of which
the last may be followed by ``...``: any number of such. ``(int, (bytes, ...))`` is a number and a list of texts.
A list of shapes is any one of them; only a whole reply can be such.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias

Shape: TypeAlias = "type | frozenset[Any] | tuple[Any, ...] | list[Any]"

ANY: Final = object
FLAG: Final = frozenset({0, 1})


def fits(reply: Any, shape: Shape) -> bool:
    """Whether a reply looks like this. Types are exact: a text is no number, and neither is nothing."""
    if isinstance(shape, type):
        return shape is ANY or type(reply) is shape
    if isinstance(shape, frozenset):
        return type(reply) in (int, bytes) and reply in shape
    if isinstance(shape, list):
        return any(fits(reply, each) for each in shape)
    return type(reply) is list and _plan(shape).fits(reply)


def checker(shape: Shape) -> Callable[[Any], bool]:
    """``fits`` for this shape, which is taken apart here and now: every trip has one."""
    if isinstance(shape, frozenset):
        return lambda reply: type(reply) in (int, bytes) and reply in shape
    if isinstance(shape, list):
        usual, *others = map(checker, shape)
        return lambda reply: usual(reply) or any(check(reply) for check in others)
    if not isinstance(shape, tuple):
        return lambda reply: fits(reply, shape)
    plan = _plan(shape)
    return lambda reply: type(reply) is list and plan.fits(reply)


class _Plan(NamedTuple):
    """A list's shape, taken apart. ``kinds``: the types of its first elements; of those,
    ``values`` must be one of a set, ``lists`` consist of one type, and ``inner`` be looked into; ``rest``: the
    shape of all behind them, or None if there are none."""

    kinds: list[type]
    values: list[tuple[int, frozenset[Any]]]
    lists: list[tuple[int, frozenset[type]]]
    inner: list[tuple[int, Shape]]
    rest: Shape | None

    def fits(self, reply: list[Any]) -> bool:
        kinds = [*map(type, reply)]
        count = len(self.kinds)
        if kinds != self.kinds and kinds[:count] != self.kinds:
            return False
        for i, values in self.values:
            if reply[i] not in values:
                return False
        for i, kind in self.lists:
            if not kind.issuperset(map(type, reply[i])):
                return False
        for i, shape in self.inner:
            if not fits(reply[i], shape):
                return False
        return len(reply) == count if self.rest is None else _all_fit(reply[count:], self.rest)


@cache
def _plan(shape: tuple[Any, ...]) -> _Plan:
    *first, last = shape
    if last is not ...:
        first, rest = list(shape), None
    else:
        *first, rest = first
    plan = _Plan([_kind(s) for s in first], [], [], [], rest)
    for i, s in enumerate(first):
        if isinstance(s, frozenset):
            plan.values.append((i, s))
        elif isinstance(s, tuple) and len(s) == 2 and s[1] is ... and isinstance(s[0], type) and s[0] is not ANY:
            plan.lists.append((i, frozenset({s[0]})))
        elif isinstance(s, tuple):
            plan.inner.append((i, s))
    return plan


def _kind(shape: Shape) -> type:
    """The one type of all replies of this shape."""
    if isinstance(shape, tuple):
        return list
    assert not isinstance(shape, list), "only a whole reply can be one of several"
    if isinstance(shape, frozenset):
        [kind] = {type(value) for value in shape}
        return kind
    assert shape is not ANY, "ANY is for what stands behind"
    return shape


def _all_fit(replies: list[Any], shape: Shape) -> bool:
    if isinstance(shape, type):  # the elements of a trip: a thousand of them at native speed
        return shape is ANY or set(map(type, replies)) <= {shape}
    return all(fits(reply, shape) for reply in replies)
