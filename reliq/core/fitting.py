"""A body made into what its handler is annotated with: a dataclass, or a model of pydantic's.

Bodies travel as maps, so a producer need not have the class, nor be Python. ``fitter`` reads an annotation once,
when the handler is made; what it returns is called for each body. What does not fit is a DecodeError that names
the field, and no value: it is logged. Fields that the class does not have are left out: the producer may be the
newer of the two.
"""

from __future__ import annotations

import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache, partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from reliq.core.kinds import is_model
from reliq.errors import DecodeError

Fit = Callable[[Any, str], Any]
"""What makes of a value, which stands at this path, one of the wanted type; raises _Misfit."""


class _Misfit(Exception):
    """What is wrong, and where."""


def fitter(wanted: Any) -> Callable[[Any], Any] | None:
    """What makes such a value of a body; None if the annotation asks for no class of the user's, and the body is
    handed over as it was read."""
    if not _names_a_class(wanted):
        return None
    return partial(_fitted, name=_name(wanted), fit=_fit(wanted))


def _fitted(body: Any, *, name: str, fit: Fit) -> Any:
    try:
        return fit(body, "")
    except _Misfit as error:
        raise DecodeError("UNDECODABLE", f"the body is no {name}: {error}"[:500]) from error.__cause__


def _names_a_class(wanted: Any) -> bool:
    if isinstance(wanted, type) and not isinstance(wanted, types.GenericAlias):
        return is_dataclass(wanted) or is_model(wanted)
    return any(map(_names_a_class, typing.get_args(wanted)))


def _fit(wanted: Any) -> Fit:
    """By the annotation of a value; those that say nothing of it let anything pass."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if isinstance(wanted, typing.NewType):
        return _fit(wanted.__supertype__)
    if origin is typing.Annotated:
        return _fit(args[0])
    if origin in (typing.Union, types.UnionType):
        return _any_of(wanted, args)
    if origin is typing.Literal:
        return partial(_one_of, args)
    kind = origin or wanted
    if not isinstance(kind, type):
        return _anything
    for match, make in _KINDS:
        if match(kind):
            return make(kind, args)
    return _anything


def _anything(value: Any, at: str) -> Any:
    return value


def _any_of(wanted: Any, args: tuple[Any, ...]) -> Fit:
    fits = [(arg, _fit(arg)) for arg in args]
    only = [fit for arg, fit in fits if arg is not _NONE]

    def fit(value: Any, at: str) -> Any:
        if type(value) in args:
            return value
        if len(only) == 1:  # it may be nothing, or this
            return only[0](value, at)
        for _, each in fits:
            with suppress(_Misfit):
                return each(value, at)
        raise _no(_name(wanted), value, at)

    return fit


def _one_of(values: tuple[Any, ...], value: Any, at: str) -> Any:
    for each in values:
        if type(each) is type(value) and each == value:
            return value
    raise _no(f"one of {', '.join(map(repr, values))}", value, at)


# -- values -------------------------------------------------------------------------------------------------


def _no(name: str, value: Any, at: str) -> _Misfit:
    given = type(value).__name__
    return _Misfit(f"{at or 'it'} is {'an' if given[0] in 'aeiou' else 'a'} {given} that is no {name}")


def _scalar(kind: type, args: Any) -> Fit:
    readers = _READERS.get(kind, {})

    def fit(value: Any, at: str) -> Any:
        if isinstance(value, kind) and (kind not in (int, date) or not isinstance(value, bool | datetime)):
            return value
        for given, read in readers.items():
            if type(value) is given:
                try:
                    return read(value)
                except (ValueError, ArithmeticError):
                    break
        raise _no(kind.__name__, value, at)

    return fit


def _enum(kind: type, args: Any) -> Fit:
    def fit(value: Any, at: str) -> Any:
        try:
            return kind(value)
        except (ValueError, TypeError, KeyError):
            raise _no(kind.__name__, value, at) from None

    return fit


# -- containers ---------------------------------------------------------------------------------------------


def _sequence(kind: type, args: tuple[Any, ...]) -> Fit:
    each = _fit(args[0]) if args else _anything
    makers: dict[Any, Any] = {abc.Sequence: list, abc.Iterable: list, abc.Collection: list, abc.Set: set}
    make = makers.get(kind, kind)

    def fit(value: Any, at: str) -> Any:
        if not isinstance(value, list | tuple | set | frozenset):
            raise _no(kind.__name__, value, at)
        try:
            return make(each(member, f"{at}[{n}]") for n, member in enumerate(value))
        except TypeError:  # no member of a set
            raise _no(kind.__name__, value, at) from None

    return fit


def _tuple(kind: type, args: tuple[Any, ...]) -> Fit:
    if not args or args[-1] is ...:
        return _sequence(tuple, args)
    fits = [_fit(arg) for arg in args]

    def fit(value: Any, at: str) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(fits):
            raise _no(f"tuple of {len(fits)}", value, at)
        return tuple(each(member, f"{at}[{n}]") for n, (each, member) in enumerate(zip(fits, value, strict=True)))

    return fit


def _mapping(kind: type, args: tuple[Any, ...]) -> Fit:
    key, each = map(_fit, args) if len(args) == 2 else (_anything, _anything)

    def fit(value: Any, at: str) -> Any:
        if not isinstance(value, dict):
            raise _no("map", value, at)
        return {
            key(name, f"a key of {at or 'it'}"): each(found, f"{at}[{name!r}]") for name, found in value.items()
        }

    return fit


# -- classes of the user's ----------------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """One field of a dataclass."""

    name: str
    fit: Fit
    is_required: bool


@cache
def _wanted(kind: Any) -> list[_Wanted]:
    """When the first body comes: then all classes that it names are there."""
    hints = hints_of(kind, vars(sys.modules.get(kind.__module__, typing)), include_extras=True)
    return [
        _Wanted(each.name, _fit(hints.get(each.name, Any)), each.default is each.default_factory is MISSING)
        for each in fields(kind)
        if each.init
    ]


def _dataclass(kind: type, args: Any) -> Fit:
    def fit(value: Any, at: str) -> Any:
        if not isinstance(value, dict):
            raise _no(f"map of {kind.__name__}'s fields", value, at)
        found = {}
        for name, each, is_required in _wanted(kind):
            here = f"{at}.{name}" if at else name
            if name in value:
                found[name] = each(value[name], here)
            elif is_required:
                raise _Misfit(f"{here} is missing")
        try:
            return kind(**found)
        except Exception as error:
            raise _Misfit(
                f"{at or kind.__name__} was refused by its class: {type(error).__name__}: {error}"
            ) from error

    return fit


def _model(kind: Any, args: Any) -> Fit:
    def fit(value: Any, at: str) -> Any:
        try:
            return kind.model_validate(value)
        except Exception as error:
            raise _Misfit(_said(error, at) or f"{type(error).__name__}: {error}") from error

    return fit


def _said(error: Any, at: str) -> str:
    """What pydantic says of the first few fields, in one line."""
    told = error.errors(include_url=False, include_input=False) if hasattr(error, "errors") else []
    return "; ".join(f"{_path(at, each['loc']) or 'it'}: {each['msg']}" for each in told[:3])


def _path(at: str, parts: Iterable[Any]) -> str:
    for part in parts:
        at = f"{at}[{part}]" if isinstance(part, int) else f"{at}.{part}" if at else str(part)
    return at


def hints_of(annotated: Any, known: dict[str, Any], *, include_extras: bool = False) -> dict[str, Any]:
    """The annotations of a function or class, without those that cannot be resolved: a class may be there for type
    checkers alone."""
    with suppress(Exception):
        return typing.get_type_hints(annotated, include_extras=include_extras)
    found: dict[str, Any] = {}
    for name, annotation in getattr(annotated, "__annotations__", {}).items():
        with suppress(Exception):
            one = types.SimpleNamespace(__annotations__={name: annotation})
            found |= typing.get_type_hints(one, known, include_extras=include_extras)
    return found


def _name(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")


_NONE: Final = type(None)
#: What else than itself a value of each type may be written as: JSON has no other way.
_READERS: Final[dict[type, dict[type, Callable[[Any], Any]]]] = {
    float: {int: float},
    datetime: {str: lambda value: datetime.fromisoformat(value[:-1] + "+00:00" if value[-1:] == "Z" else value)},
    date: {str: date.fromisoformat},
    time: {str: time.fromisoformat},
    timedelta: {int: lambda value: timedelta(seconds=value), float: lambda value: timedelta(seconds=value)},
    UUID: {str: UUID},
    Decimal: {str: Decimal, int: Decimal, float: lambda value: Decimal(repr(value))},
    bytes: {},
    str: {},
    int: {},
    bool: {},
    _NONE: {},
}
_KINDS: Final[tuple[tuple[Callable[[type], bool], Callable[[Any, Any], Fit]], ...]] = (
    (is_model, _model),
    (is_dataclass, _dataclass),
    (_READERS.__contains__, _scalar),
    (lambda kind: issubclass(kind, Enum), _enum),
    (lambda kind: kind is tuple, _tuple),
    ({list, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection, abc.Set}.__contains__, _sequence),
    ({dict, abc.Mapping, abc.MutableMapping}.__contains__, _mapping),
)
