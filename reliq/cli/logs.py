"""Log lines of a worker, on stderr: each says which message it is about."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Final

from reliq.cli.text import SCHEMA
from reliq.logging import ContextFilter, JsonFormatter, KeyValueFormatter, bodies, fields_of, without_secrets

LEVELS: Final = ("debug", "info", "warning", "error")


class TextFormatter(logging.Formatter):
    """``12:00:01.234 WARNING 4711 back in 1.0 s: … queue=emails id=… trace_id=…``"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        line = f"{at} {record.levelname:<7} {record.process} {record.getMessage()}"
        fields = fields_of(record)
        if fields.get("trace_id") == fields.get("id"):  # nobody named a trace: the id says it all
            fields.pop("trace_id", None)
        line += "".join(f" {name}={value}" for name, value in fields.items() if name != "consumer")
        if record.exc_info and not record.exc_text:
            line += f"\n{self.formatException(record.exc_info)}"
        elif record.exc_text:
            line += f"\n{record.exc_text}"
        return without_secrets(line)


FORMATS: Final[dict[str, Callable[[], logging.Formatter]]] = {
    "text": TextFormatter,
    "logfmt": KeyValueFormatter,
    "json": lambda: JsonFormatter(schema=SCHEMA),
}


def set_up(level: str, form: str, *, with_bodies: bool = False) -> None:
    """Let all records of the process go to stderr, with trace id, queue and id; before handlers are imported,
    so that a plain ``logging.basicConfig()`` of theirs changes nothing."""
    _install(FORMATS[form](), level)
    if with_bodies:
        bodies.setLevel(logging.DEBUG)


def set_up_plain() -> None:
    """For commands that are no service: warnings of the library look like the command's own."""
    _install(logging.Formatter("reliq: %(message)s"), "warning")


def _install(formatter: logging.Formatter, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(ContextFilter())
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
