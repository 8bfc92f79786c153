"""A shape fits the replies that a script has, and nothing that is merely like one of them."""

from __future__ import annotations

from typing import Any

import pytest

from reliq.core.shape import ANY, FLAG, Shape, fits

NAMES: Shape = (int, bytes, ...)


@pytest.mark.parametrize(
    ("reply", "shape"),
    [
        (5, int),
        (b"", bytes),
        (None, ANY),
        (1, FLAG),
        ([1], NAMES),
        ([1, b"a", b"b"], NAMES),
        ([[], [b"a"]], ((bytes, ...), (bytes, ...))),
        ([[1, 2], []], ((int, ...), ...)),
    ],
)
def test_fits(reply: Any, shape: Shape) -> None:
    assert fits(reply, shape)


@pytest.mark.parametrize(
    ("reply", "shape"),
    [
        (True, int),
        (b"5", int),
        (None, bytes),
        (2, FLAG),
        ([], FLAG),
        (b"\x01a", NAMES),
        ((1, b"a"), NAMES),
        ([], NAMES),
        ([1, "a"], NAMES),
        ([1, b"a", None], NAMES),
        ([1, 2, 3], (int, int)),
        ([1], (int, int)),
        ([[1, b"a"], []], ((int, ...), ...)),
    ],
)
def test_does_not_fit(reply: Any, shape: Shape) -> None:
    assert not fits(reply, shape)
