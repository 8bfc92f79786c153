"""reliq/core has no I/O, no clock and no randomness, so its tests need no server, no sleep and no mock.

import-linter keeps other packages out (pyproject.toml), but does not see the standard library. This does: it
follows the imports of reliq/core, into other modules of reliq too, and looks at each source text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

IMPURE_MODULES = frozenset(
    [
        *("redis", "reliq.sync", "reliq.aio", "reliq.cli", "reliq.ack", "reliq.embedded"),
        *("asyncio", "threading", "multiprocessing", "concurrent", "queue", "subprocess", "signal"),
        *("socket", "select", "selectors", "ssl", "http", "urllib"),
        *("os", "tempfile", "shutil", "glob", "platform", "getpass", "logging"),
        *("time", "sched", "random", "secrets"),
    ]
)
IMPURE_FUNCTIONS = {
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "uuid": {"uuid1", "uuid4", "uuid6", "uuid7"},
}
"""Of modules and types that are otherwise welcome."""
IMPURE_BUILTINS = frozenset({"open", "input", "print"})


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every module that an import may load, absolute, with its line; `from a import b` may load a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def impurities(source: str, package: str = "reliq.core") -> list[str]:
    """What in a module's source breaks the rule, each as `line: what`."""
    tree = ast.parse(source)
    found = [
        f"{line}: imports {name}"
        for line, name in imported_modules(tree, package)
        if any(name == bad or name.startswith(f"{bad}.") for bad in IMPURE_MODULES)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2]
            if node.attr in IMPURE_FUNCTIONS.get(owner, ()):
                found.append(f"{node.lineno}: uses {owner}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module:
            impure = IMPURE_FUNCTIONS.get(node.module, set())
            found += [f"{node.lineno}: imports {alias.name}" for alias in node.names if alias.name in impure]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS:
            found.append(f"{node.lineno}: calls {node.func.id}()")
    return found


def module_file(name: str) -> Path | None:
    stem = ROOT.joinpath(*name.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def reached_from_core() -> dict[Path, str]:
    """Source files of reliq/core and of what they import inside reliq, with the package each belongs to."""
    reached: dict[Path, str] = {}
    waiting = sorted((ROOT / "reliq" / "core").rglob("*.py"))
    while waiting:
        path = waiting.pop()
        package = ".".join(path.parent.relative_to(ROOT).parts)
        if path in reached or path == ROOT / "reliq" / "__init__.py":  # the public names import everything
            continue
        reached[path] = package
        for _, name in imported_modules(ast.parse(path.read_text()), package):
            if name.startswith("reliq.") and (found := module_file(name)):
                waiting.append(found)
    return reached


def test_core_and_what_it_imports_is_pure() -> None:
    """Nothing that reliq/core reaches does I/O, reads a clock, or draws a random number."""
    reached = reached_from_core()
    broken = {
        str(path.relative_to(ROOT)): found
        for path, package in reached.items()
        if (found := impurities(path.read_text(), package))
    }
    assert reached, "reliq/core has no modules: the check looks in the wrong place"
    assert broken == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import time",
        "import os.path",
        "from time import monotonic",
        "import asyncio as a",
        "def f():\n    import random",
        "from redis.asyncio import Redis",
        "from reliq import sync",
        "from reliq.sync import queue",
        "from ..aio import driver",
        "from .. import embedded",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import date\ndate.today()",
        "from uuid import uuid4",
        "open('file')",
        "if TYPE_CHECKING:\n    from reliq.sync.queue import Queue",
    ],
)
def test_check_can_fail(planted: str) -> None:
    """Each way to break the rule is seen."""
    assert impurities(planted) != []


@pytest.mark.parametrize(
    "allowed",
    [
        "import hashlib, struct",
        "import tenacity, msgpack",
        "from . import keys",
        "from ..errors import ReliqError",
        "import datetime\ndef f(trip): return trip.now + datetime.timedelta(1)",
    ],
)
def test_check_lets_pure_code_pass(allowed: str) -> None:
    """What the core may use is no impurity."""
    assert impurities(allowed) == []
