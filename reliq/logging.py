"""Log records that say which message they are about, and formatters that write them in one line each.

reliq's own records go to the logger ``reliq`` and carry the fields below. To have them in your own records too,
give a handler one of the formatters::

    handler.setFormatter(reliq.logging.JsonFormatter())  # or KeyValueFormatter()

or keep your own formatter, and add the filter::

    handler.addFilter(reliq.logging.ContextFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s trace=%(trace_id)s id=%(id)s"))

What reliq logs holds no password of a URL, also where an exception of somebody else shows one (``SecretFilter``),
and no body, unless that is asked for: ``logging.getLogger("reliq.bodies").setLevel("DEBUG")``. Of a kind of record
that comes by the hundred, only so many are shown, and the others counted (``RepeatFilter``).
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any, Final

from reliq import context, defaults

FIELDS: Final = ("trace_id", "queue", "id", "attempt", "consumer")
#: What every record has; anything else was given as ``extra``.
_USUAL: Final = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", *FIELDS])
#: A value that needs no quotes. Not compiled here, nor those below: every import would pay, and few log much.
_BARE: Final = r'[^\s"=\\\x00-\x1f\x7f-\xa0\u2028\u2029]+'
_BREAKS: Final = {ord(c): f"\\u{ord(c):04x}" for c in "\x7f\x85\xa0\u2028\u2029"}
_IN_URL: Final = r"(\w://[^\s:/?#@'\"]*:)[^\s@'\"]+(?=@)"
_OPTION: Final = r"(?i)((?:\b|_)password(?:=['\"]?|['\"]?: ?['\"]?))[^\s&'\",;)]+"


class ContextFilter(logging.Filter):
    """Sets trace_id, queue, id, attempt and consumer on every record ("-" outside of a handler)."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = context.current()
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, getattr(message, name) if message else "-")
        if message is None and (traced := context.trace_id()):
            record.trace_id = traced
        return True


def without_secrets(text: str) -> str:
    """The text with ``***`` where a password stands: of a URL, or behind ``password=`` and the like."""
    if "://" not in text and "assword" not in text.casefold():
        return text
    return re.sub(_OPTION, r"\1***", re.sub(_IN_URL, r"\1***", text))


class SecretFilter(logging.Filter):
    """Takes passwords out of a record: out of its message, its exception and its stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if (clean := without_secrets(said)) != said:
            record.msg, record.args = clean, ()
        if record.exc_info and not record.exc_text:
            text = logging.Formatter().formatException(record.exc_info)
            if (clean := without_secrets(text)) != text:
                record.exc_text = clean
                record.exc_info = None  # formatters that have their own way with it would show it
        if record.stack_info:
            record.stack_info = without_secrets(record.stack_info)
        return True


class RepeatFilter(logging.Filter):
    """Lets through ``most`` records of one kind in ``seconds``, and counts the others: the next one that comes
    through says how many. One kind is: the same line of code, about the same queue."""

    def __init__(
        self,
        most: int = defaults.LOG_BURST,
        seconds: float = defaults.LOG_WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._most, self._seconds, self._clock = most, seconds, clock
        self._kinds: dict[tuple[object, ...], list[float]] = {}  # end of the window, let through, held back
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.pathname, record.lineno, record.levelno, getattr(record, "queue", "-"))
        now = self._clock()
        with self._lock:
            window = self._kinds.setdefault(kind, [now + self._seconds, 0, 0])
            end, shown, held = window
            if now >= end:
                window[:] = [now + self._seconds, 1, 0]
            elif shown >= self._most:
                window[2] += 1
                return False
            else:
                window[1] += 1
                held = 0
        if now >= end and held:
            record.msg, record.args = f"{record.getMessage()} ({held:.0f} like it were not shown)", ()
        elif shown == self._most - 1 and now < end:
            more = f"(more like it in the next {end - now:.0f} s are counted, not shown)"
            record.msg, record.args = f"{record.getMessage()} {more}", ()
        return True


def about(message: context.Handled) -> dict[str, Any]:
    """``extra`` for a record about a message that is not handled where it is made."""
    return {name: getattr(message, name) for name in FIELDS}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says about its message, if it is about one: its own fields, else those of the message that is
    being handled here."""
    message = context.current()
    found = {name: getattr(record, name, getattr(message, name, "-")) for name in FIELDS}
    if found["trace_id"] == "-":
        found["trace_id"] = context.trace_id() or "-"
    return {name: value for name, value in found.items() if value != "-"}


def _parts(record: logging.LogRecord, formatter: logging.Formatter) -> Iterator[tuple[str, Any]]:
    """All that a record says, in the order of a line."""
    at = datetime.fromtimestamp(record.created, timezone.utc)
    yield "time", at.isoformat(timespec="milliseconds")
    yield "level", record.levelname.lower()
    yield "logger", record.name
    yield "pid", record.process
    yield "message", without_secrets(record.getMessage())
    yield from fields_of(record).items()
    yield from ((name, value) for name, value in vars(record).items() if name not in _USUAL)
    if record.exc_info and not record.exc_text:
        yield "exception", without_secrets(formatter.formatException(record.exc_info))
    elif record.exc_text:
        yield "exception", without_secrets(record.exc_text)
    if record.stack_info:
        yield "stack", without_secrets(formatter.formatStack(record.stack_info))


class JsonFormatter(logging.Formatter):
    """One JSON document per record and line: time (ISO 8601, UTC), level, logger, pid, message, the fields of what
    it is about, what was given as ``extra``, exception and stack; ``first`` stands before all that."""

    def __init__(self, **first: Any) -> None:
        super().__init__()
        self._first = first

    def format(self, record: logging.LogRecord) -> str:
        entry = {**self._first, **dict(_parts(record, self))}
        return json.dumps(entry, ensure_ascii=False, default=str).translate(_BREAKS)


class KeyValueFormatter(logging.Formatter):
    """The same as ``key=value``, as logfmt has it; a value with white space, quotes or = is a JSON string."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{_key(name)}={_value(value)}" for name, value in _parts(record, self))


def _key(name: str) -> str:
    return re.sub(r'[\s="\x00-\x1f]', "_", name)


def _value(value: Any) -> str:
    text = str(value)
    return text if re.fullmatch(_BARE, text) else json.dumps(text, ensure_ascii=False).translate(_BREAKS)


log: Final = logging.getLogger("reliq")
log.addFilter(ContextFilter())
log.addFilter(SecretFilter())
log.addFilter(RepeatFilter())
#: Bodies of messages whose handler failed, at DEBUG; silent however verbose its parents, until it gets a level.
bodies: Final = log.getChild("bodies")
bodies.setLevel(logging.CRITICAL)
bodies.addFilter(ContextFilter())
bodies.addFilter(SecretFilter())
bodies.addFilter(RepeatFilter())
