"""Where telemetry may stand around what reliq does.

A class says which of its methods may be stood around; until something is switched on these are the methods as they
were written, so it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
C = TypeVar("C", bound=type)


class _Place(NamedTuple):
    owner: type
    name: str
    kind: str
    written: Callable[..., Any]


_places: list[_Place] = []
_wraps: dict[str, Wrap] = {}
_endings: list[Callable[[], Any]] = []


def open_to(**kinds: str) -> Callable[[C], C]:
    """Let methods of a class be stood around: ``@open_to(put="put")`` says which, and of what kind they are."""

    def register(owner: C) -> C:
        for name, kind in kinds.items():
            place = _Place(owner, name, kind, vars(owner)[name])
            _places.append(place)
            _put_up(place)
        return owner

    return register


def switch_on(wraps: Mapping[str, Wrap]) -> None:
    """From here on each method of a kind is what ``wraps`` makes of it; also those of classes still to come."""
    _wraps.clear()
    _wraps.update(wraps)
    for place in _places:
        _put_up(place)


def switch_off() -> None:
    """All is again as it was written."""
    switch_on({})


def wrapped(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, stood around if that is switched on for its kind."""
    wrap = _wraps.get(kind)
    return function if wrap is None else wrap(function)


def at_end(function: Callable[[], Any]) -> None:
    """Call it when this worker process ends, if it was forked: such a one runs nothing of what ``atexit`` knows,
    which is its parent's."""
    _endings.append(function)


def finish() -> None:
    """This process ends."""
    while _endings:
        _endings.pop()()


def _put_up(place: _Place) -> None:
    setattr(place.owner, place.name, wrapped(place.kind, place.written))
