"""The producers in other languages (scripts/producers): they write what the vectors say, and workers read it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.core import envelope as env
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import RedisServer, find_servers

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"go": ROOT / "scripts/producers/go/main.go", "js": ROOT / "scripts/producers/js/producer.js"}
VECTORS = json.loads((ROOT / "tests/core/vectors.json").read_text("utf-8"))
#: Those that a producer writes: no counter has counted yet, and its meta is texts alone.
WRITTEN = [
    vector
    for vector in VECTORS["elements"]
    if not any(vector[counter] for counter in ("returns", "failed", "released", "lost"))
    and all(isinstance(value, str) for value in vector["meta"].values())
]
PATH = os.pathsep.join([os.environ["PATH"], "/usr/local/go/bin"])  # where Go installs itself

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def missing(what: str) -> None:
    """Skip; where RELIQ_PRODUCERS_REQUIRED is 1, a skip would hide something."""
    if os.environ.get("RELIQ_PRODUCERS_REQUIRED") == "1":
        pytest.fail(what)
    pytest.skip(what)


def build(language: str, folder: Path) -> list[str]:
    """The command of a producer that was built there, with its client library."""
    tools = {"go": ("go",), "js": ("node", "npm")}[language]
    if absent := [tool for tool in tools if not shutil.which(tool, path=PATH)]:
        missing(f"{' and '.join(absent)} not found: the producer in {language} is not tested")
    shutil.copytree(SOURCES[language].parent, folder, ignore=shutil.ignore_patterns("node_modules"))
    install, run = {
        "go": (["go", "build", "-o", "producer", "."], [str(folder / "producer")]),
        "js": (["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], ["node", "producer.js"]),
    }[language]
    environment = {**os.environ, "PATH": PATH}
    install[0] = str(shutil.which(install[0], path=PATH))
    done = subprocess.run(install, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        missing(f"{' '.join(install)} failed, so the producer in {language} is not tested: {done.stderr[-2000:]}")
    return run


@pytest.fixture(scope="session", params=sorted(SOURCES))
def producer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs one of them with these words, on this URL."""
    folder = tmp_path_factory.mktemp(request.param) / "producer"
    command = build(request.param, folder)

    def run(*words: str, url: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": PATH, "RELIQ_URL": url}
        return subprocess.run(
            [*command, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize("vector", WRITTEN, ids=lambda vector: vector["name"])
def test_its_envelopes_are_those_of_the_vectors(producer: Run, vector: dict[str, Any]) -> None:
    """For the id, meta and body of each, byte by byte."""
    meta = [f"{key}={value}" for key, value in vector["meta"].items()]
    done = producer("hex", VECTORS["id"], vector["body"], *meta)
    assert (done.returncode, done.stdout.strip()) == (0, vector["element"]), done.stderr


def test_there_are_vectors_for_producers() -> None:
    """The test above has what it needs: no meta, short and long texts, any bytes."""
    assert len(WRITTEN) >= 5
    assert {len(vector["meta"]) for vector in WRITTEN} == {0, 1}
    assert any(len(value) > 31 for vector in WRITTEN for value in vector["meta"].values())


def test_a_live_worker_handles_what_it_puts(server: Any, prefix: str, producer: Run) -> None:
    """Under the ids that it has printed, each once, equal bodies too; and what its meta says is known."""
    with lab(server, prefix) as it:
        it.start(concurrency=1)  # of two handlers at once nobody says which is done first
        before = time.time() * 1000
        words = ("put", it.queue.options.keys.ready, '{"n": 7}', "c=json")
        runs = [producer(*words, url=server.url) for _ in range(2)]
        assert [done.returncode for done in runs] == [0, 0], runs[0].stderr
        ids = [done.stdout.strip() for done in runs]
        wait_until(lambda: len(it.effects()) == 2, 10, "handled")
        it.drained(5)
        assert [(effect["n"], effect["id"]) for effect in it.effects()] == [(7, id) for id in ids]
        made = [env.id_ms(bytes.fromhex(id)) for id in ids]
        assert all(before - 1 <= int(ms or 0) <= time.time() * 1000 for ms in made)
        assert len(set(ids)) == 2


def test_its_trace_id_arrives(server: Any, prefix: str, producer: Run) -> None:
    """Meta is more than the codec, and a list may have any name."""
    key, trace = f"{prefix} old {{list}}", "4bf92f3577b34da6a3ce929d0e0e4736"
    with reliq.Queue("orders", server.url, prefix=prefix, key=key) as queue:
        done = producer("put", key, '"a=b é"', f"t={trace}", "c=json", "note=a=b", url=server.url)
        assert done.returncode == 0, done.stderr
        with queue.consumer() as consumer:
            [lease] = consumer.claim(timeout=10)
            assert (lease.body, lease.trace_id, lease.id) == ("a=b é", trace, done.stdout.strip())
            lease.ack()


def test_it_tells_refused_from_unknown_and_repeats_nothing(
    server: Any, redis: Any, prefix: str, producer: Run
) -> None:
    """A key of another type: refused, exit status 1. An answer that is lost: unknown, 3, and it was sent once."""
    redis.set(prefix + "text", "no list")
    done = producer("put", prefix + "text", "1", "c=json", url=server.url)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "WRONGTYPE" in done.stderr
    host, port = server.url.removeprefix("redis://").split("/")[0].split(":")
    with FaultProxy(host, int(port)) as proxy:
        rule = proxy.on(command=b"LPUSH", action=drop_reply(), count=None)
        done = producer("put", prefix + "list", "1", "c=json", url=proxy.url)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
        assert rule.hits == 1
    assert redis.llen(prefix + "list") == 1
    redis.delete(prefix + "text", prefix + "list")


def test_wrong_use_is_told(producer: Run) -> None:
    """Too few words: what to type, and exit status 2."""
    done = producer("put", "key")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


@pytest.mark.parametrize("language", sorted(SOURCES))
def test_it_is_small(language: str) -> None:
    """Under 80 lines, so that it can be read before it is copied."""
    assert len(SOURCES[language].read_text("utf-8").splitlines()) < 80


@pytest.fixture
def cli_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redis-cli can be found: the one of the system, or the one that came with a server."""
    folders = [str(server.path.parent) for server in find_servers()]
    path = os.pathsep.join([os.environ["PATH"], *folders])
    if not shutil.which("redis-cli", path=path):
        missing("no redis-cli here")
    monkeypatch.setenv("PATH", path)


@pytest.mark.usefixtures("cli_path")
def test_the_line_for_redis_cli(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in the README."""
    [line] = re.findall(r"^\$ (redis-cli .* LPUSH orders .*)$", (ROOT / "README.md").read_text("utf-8"), re.M)
    monkeypatch.setenv("RELIQ_URL", own_server.url)
    subprocess.run(["bash", "-euc", line], check=True, stdout=subprocess.DEVNULL)
    with reliq.Queue("orders", own_server.url, key="orders") as queue, queue.consumer() as consumer:
        [lease] = consumer.claim(timeout=10)
        assert lease.body == {"id": 7}
        lease.ack()
