"""Compressed bodies. The method stands in the meta, so that a reader need not be told.

A body is compressed after its codec has written it, and before it is decided whether it lies beside the list. What
comes of it is kept only if it is smaller. Imported when there is such a body, or a queue that wants them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from reliq import defaults
from reliq.errors import ConfigError, DecodeError

#: The key in the meta.
KEY: Final = "z"
#: The one method that there is.
ZSTD: Final = "zstd"
#: So large a body may be when it is expanded: a few bytes can be made that expand to any size. A larger one is not
#: compressed, so that whoever can read compressed ones can read all of them.
MOST: Final = defaults.MAX_BODY
_MISSING: Final = "the package zstandard is not here: pip install 'reliq[zstd]'"
_LEVEL: Final = 3

_compressors: Final[deque[Any]] = deque()  # idle ones: to make one takes longer than to use it
_expanders: Final[deque[Any]] = deque()


def checked(queue: str, method: Any) -> bool:
    """Whether a queue compresses, as its argument says; ConfigError if it cannot."""
    if method != ZSTD:
        raise ConfigError(f"queue {queue!r}: compress={method!r}: 'zstd', or None")
    try:
        import zstandard  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"queue {queue!r}: compress='zstd': {_MISSING}") from error
    return True


def compressed(data: bytes) -> bytes | None:
    """The same in less bytes; None if there is no such thing."""
    if len(data) > MOST:
        return None
    try:
        compressor = _compressors.pop()
    except IndexError:
        import zstandard

        compressor = zstandard.ZstdCompressor(level=_LEVEL)
    found: bytes = compressor.compress(data)
    _compressors.append(compressor)
    return found if len(found) < len(data) else None


def expanded(method: Any, data: bytes) -> bytes:
    """What was compressed by this method. DecodeError UNDECODABLE if it is damaged, larger than MOST, or by a
    method that is not to be had here."""
    if method != ZSTD:
        raise DecodeError("UNDECODABLE", f"the body is compressed with {method!r}, which is not known here")
    try:
        import zstandard
    except ImportError as error:
        text = f"the body is compressed with zstd, and {_MISSING}, then: reliq dead revive ID"
        raise DecodeError("UNDECODABLE", text) from error
    try:
        # A size that is said is believed, by what comes next, whatever the limit.
        if (size := zstandard.frame_content_size(data)) > MOST:
            raise ValueError(f"it would be {size:,} bytes, more than {MOST:,}")
        try:
            expander = _expanders.pop()
        except IndexError:
            expander = zstandard.ZstdDecompressor(max_window_size=MOST)
        found: bytes = expander.decompress(data, max_output_size=MOST, allow_extra_data=False)
    except Exception as error:
        text = f"the body is no zstd of at most {MOST:,} bytes: {error}"
        raise DecodeError("UNDECODABLE", text[:500]) from error
    _expanders.append(expander)
    return found
