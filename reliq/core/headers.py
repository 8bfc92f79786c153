"""What a put writes on a message beside its body: texts by name, for middleware and handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reliq import defaults
from reliq.core import envelope as env
from reliq.errors import ConfigError

#: The key in the meta: a map of text to text.
KEY: Final = "a"


def checked(said: object) -> dict[str, str]:
    """What ``put(headers=)`` says; ConfigError if it cannot be."""
    if not isinstance(said, Mapping):
        raise ConfigError(f"put(headers={said!r:.120}): texts by name, as in {{'tenant': 'acme'}}")
    for name, value in said.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"put(headers=): {name!r:.60}: {value!r:.60}: names and values are texts")
        if env.storable(name + value) != name + value:
            raise ConfigError(f"put(headers=): {name!r:.60}: no text that UTF-8 can carry; spell it otherwise")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in said.items())
    if size > defaults.HEADERS:
        raise ConfigError(
            f"put(headers=): {size:,} bytes, and the limit is {defaults.HEADERS:,}: every settle carries them; "
            "what is larger belongs into the body"
        )
    return dict(said)


def headers_of(meta: env.Meta) -> dict[str, str]:
    """Those of a message with this meta; empty if there are none, or what there is cannot be read."""
    found = meta.get(KEY)
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, str)}
