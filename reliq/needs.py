"""What a handler needs besides its message: parameters annotated ``reliq.Dependency[Pool]``."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

T = TypeVar("T")


class _Mark:
    """What tells such an annotation from others."""

    def __repr__(self) -> str:
        return "reliq.Dependency"


_MARK: Final = _Mark()
_NAME: Final = "Dependency"
#: ``pool: Dependency[Pool]`` is a parameter of type Pool, which a worker fills from what its lifespan yields under
#: that name. A type checker sees a Pool.
Dependency = Annotated[T, _MARK]


def is_marked(function: Callable[..., Any], name: str, annotation: object) -> bool:
    """Whether this parameter of a handler is annotated so."""
    if not isinstance(annotation, str):
        return _has_mark(annotation)
    if annotation.partition("[")[0].rpartition(".")[2] == _NAME:
        return True
    try:  # another name for it
        return _has_mark(typing.get_type_hints(inspect.unwrap(function), include_extras=True).get(name))
    except Exception:  # noqa: BLE001 - a forward reference that cannot be resolved here is no error of ours
        return False


def _has_mark(annotation: object) -> bool:
    return any(mark is _MARK for mark in getattr(annotation, "__metadata__", ()))
