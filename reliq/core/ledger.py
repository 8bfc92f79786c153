"""The ledger of a queue, as it stands in its stream ``events``: what an entry says, and of which messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def read(entries: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """What XRANGE says, one dict for each message that an entry is about: event, id, consumer and detail as texts,
    and ``at``, the server's Unix ms. The id is "" in an entry about none. What is no UTF-8 is replaced."""
    for entry, fields in entries:
        texts = [field.decode("utf-8", "replace") for field in fields]
        told: dict[str, Any] = dict(zip(texts[::2], texts[1::2], strict=True))
        told["at"] = int(entry.partition(b"-")[0])
        for id in told.get("id", "").split(" "):  # a reap names all that it brought back at once
            yield told | {"id": id}
