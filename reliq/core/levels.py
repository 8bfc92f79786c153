"""Levels of a queue: each but the normal one is a queue of its own beside it, ``emails.high`` beside ``emails``.

So whatever is done with queues is done with levels, and the keys of a queue stay what they are. Imported when
there are any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from reliq.core.keys import Keys
from reliq.core.turns import check_weight
from reliq.errors import ConfigError

#: What is put without a priority: in the queue itself.
NORMAL: Final = "normal"
#: The levels of ``levels=True``, and how many messages of each are handed over while all have some.
USUAL: Final[Mapping[str, int]] = {"high": 6, NORMAL: 3, "low": 1}
#: A few: a worker claims from each, with two connections.
MOST: Final = 8


def checked(name: str, levels: object) -> dict[str, int]:
    """The levels of a queue and their weights, as given to ``Queue(levels=)``; ConfigError says why not."""
    chosen: Any = USUAL if levels is True else levels
    if not isinstance(chosen, Mapping):
        raise ConfigError(f"queue {name!r}: levels={levels!r}: True, or names and weights, as in {dict(USUAL)!r}")
    if NORMAL not in chosen or not 2 <= len(chosen) <= MOST:
        raise ConfigError(
            f"queue {name!r}: levels={levels!r}: 2 to {MOST} of them, and one is {NORMAL!r}: what is put without "
            "a priority"
        )
    for level, weight in chosen.items():
        if not isinstance(level, str) or not re.fullmatch("[a-z0-9_-]{1,30}", level):
            raise ConfigError(
                f"queue {name!r}: levels={levels!r}: {level!r} cannot name a level: 1 to 30 of a-z, 0-9, _ and -"
            )
        check_weight(f"queue {name!r}: levels={levels!r}: {level!r}", weight)
    return dict(chosen)


def keys_of(keys: Keys, levels: Mapping[str, int], level: object) -> Keys:
    """Those of one level of a queue; ConfigError if it has none of this name."""
    if level == NORMAL:
        return keys
    if level not in levels:
        known = f"its levels are {', '.join(levels)}" if levels else "it has no levels: make it with levels=True"
        raise ConfigError(f"queue {keys.queue!r}: priority {level!r} is not known; {known}")
    return Keys(f"{keys.queue}.{level}", keys.prefix, None if keys.key is None else f"{keys.key}.{level}")


def names(queue: str, levels: Mapping[str, int]) -> Iterator[str]:
    """What the queues of all levels are called."""
    for level in levels or (NORMAL,):
        yield queue if level == NORMAL else f"{queue}.{level}"
