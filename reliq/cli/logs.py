"""Log lines of a worker, on stderr: each says which message it is about."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, Final

from reliq.cli.text import SCHEMA
from reliq.logging import FIELDS, ContextFilter

LEVELS: Final = ("debug", "info", "warning", "error")


def set_up(level: str, *, as_json: bool) -> None:
    """Let all records of the process go to stderr, with trace id, queue and id; before handlers are imported,
    so that a plain ``logging.basicConfig()`` of theirs changes nothing."""
    _install(JsonFormatter() if as_json else TextFormatter(), level)


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


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the record says about its message, if it is about one."""
    values = {name: getattr(record, name, "-") for name in FIELDS}
    return {name: value for name, value in values.items() if value != "-"}


class TextFormatter(logging.Formatter):
    """``12:00:01.234 WARNING 4711 back in 1.0 s: … queue=emails id=… trace=…``"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        line = f"{at} {record.levelname:<7} {record.process} {record.getMessage()}"
        fields = _fields(record)
        if fields.get("trace_id") == fields.get("id"):  # nobody named a trace: the id says it all
            fields.pop("trace_id", None)
        line += "".join(f" {name}={value}" for name, value in fields.items() if name != "consumer")
        if record.exc_info:
            line += f"\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON document per line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "schema": SCHEMA,
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)
