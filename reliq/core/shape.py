"""What the reply to a script looks like, so that anything else is not taken for one.

A shape is a type; a frozenset of the values that there are; or the shapes of a list's items, in order, of which
the last may be followed by ``...``: any number of such. ``(int, (bytes, ...))`` is a number and a list of texts.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Shape: TypeAlias = "type | frozenset[Any] | tuple[Any, ...]"

ANY: Final = object
FLAG: Final = frozenset({0, 1})


def fits(reply: Any, shape: Shape) -> bool:
    """Whether a reply looks like this. Types are exact: a text is no number, and neither is nothing."""
    if isinstance(shape, type):
        return shape is ANY or type(reply) is shape
    if isinstance(shape, frozenset):
        return type(reply) in (int, bytes) and reply in shape
    if type(reply) is not list:
        return False
    if shape[-1:] != (...,):
        return len(reply) == len(shape) and all(map(fits, reply, shape))
    *first, rest, _ = shape
    count = len(first)
    return len(reply) >= count and all(map(fits, reply, first)) and _all_fit(reply[count:], rest)


def _all_fit(replies: list[Any], shape: Shape) -> bool:
    if isinstance(shape, type):  # the elements of a trip: a thousand of them at native speed
        return shape is ANY or set(map(type, replies)) <= {shape}
    return all(fits(reply, shape) for reply in replies)
