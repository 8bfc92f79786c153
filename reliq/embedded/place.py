"""Where the embedded Redis lives: its directory, which nobody else may enter, and the files in it."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from reliq.embedded import keeper
from reliq.errors import EmbeddedUnavailable

# sun_path holds 108 bytes on Linux and 104 on the BSDs and macOS, one of them a NUL. Redis cuts a longer
# path short without a word, so the smaller limit is kept everywhere.
_SOCKET_PATH_BYTES = 103


@dataclass(frozen=True)
class Place:
    """A private data directory and the path of the socket that belongs to it."""

    directory: Path
    socket: Path

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}?db=0"

    @property
    def log(self) -> Path:
        return self.directory / "redis.log"

    @property
    def start_lock(self) -> Path:
        return self.directory / "start.lock"

    @property
    def users_lock(self) -> Path:
        return self.directory / keeper.USERS_LOCK

    @property
    def keeper_lock(self) -> Path:
        return self.directory / keeper.KEEPER_LOCK


def find(directory: Path | None) -> Place:
    """The place in `directory`, or in this user's default one; made, if it is not there yet, with mode 0700.

    Raises EmbeddedUnavailable when it cannot be made, or belongs to somebody else.
    """
    chosen = directory if directory is not None else _default()
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Two spellings of one directory share its locks, so they must agree on the socket as well.
        resolved = chosen.resolve(strict=True)
        _make_private(resolved)
        return Place(resolved, _socket(resolved))
    except OSError as error:
        raise EmbeddedUnavailable(
            f"the data directory {chosen} of the embedded Redis cannot be used ({error}): "
            "set RELIQ_DATA_DIR to one that is yours, or RELIQ_URL to a Redis"
        ) from error


def _default() -> Path:
    """``$RELIQ_DATA_DIR``, else the XDG data home (where a relative path is to be ignored, says its spec)."""
    if own := os.environ.get("RELIQ_DATA_DIR"):
        return Path(os.path.expanduser(own))
    base = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "reliq"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise EmbeddedUnavailable("this user has no home directory: set RELIQ_DATA_DIR, or RELIQ_URL to a Redis")
    return Path(home) / ".local" / "share" / "reliq"


def _make_private(path: Path) -> None:
    """Refuse a directory of somebody else, and close one of ours to everybody else."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is not a directory")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to uid {found.st_uid}, this process runs as uid {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    if path.lstat().st_mode & 0o077:
        raise PermissionError(f"{path} stays open to other users after chmod 700: its file system ignores modes")


def _socket(directory: Path) -> Path:
    """The socket in `directory`, or a short path in the temporary directory if that one would be too long.

    All processes of a user must then agree on TMPDIR, as they do for everything else that they share there.
    """
    near = directory / "redis.sock"
    if len(os.fsencode(near)) <= _SOCKET_PATH_BYTES:
        return near
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    far = Path(tempfile.gettempdir()) / f"reliq-{os.geteuid()}-{name}"
    # lstat in _make_private: a symlink put there by somebody else is not followed.
    far.mkdir(mode=0o700, exist_ok=True)
    _make_private(far)
    socket = far / "redis.sock"
    if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
        raise EmbeddedUnavailable(f"{directory} and {far} are both too long for a Unix socket: set RELIQ_DATA_DIR")
    return socket
