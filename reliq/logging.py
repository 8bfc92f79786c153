"""Log records that say which message they are about.

reliq's own records go to the logger ``reliq`` and carry the fields below. To have them in your own
records too, add the filter to a handler::

    handler.addFilter(reliq.logging.ContextFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s trace=%(trace_id)s id=%(id)s"))
"""

from __future__ import annotations

import logging
from typing import Final

from reliq import context

FIELDS: Final = ("trace_id", "queue", "id", "attempt", "consumer")


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


log: Final = logging.getLogger("reliq")
log.addFilter(ContextFilter())
