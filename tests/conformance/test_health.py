"""A worker that is asked: /healthz, /readyz and /metrics over real HTTP, in both shells."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

import reliq
from reliq.errors import ConfigError
from reliq.identity import host_name
from tests.conformance.shell import Shell, until
from tests.servers import RedisServer


class Told(NamedTuple):
    status: int
    text: str
    kind: str


def get(port: int, path: str, method: str = "GET") -> Told:
    """Ask as a probe does; what is refused has status 0."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Told(answer.status, answer.read().decode(), answer.headers["Content-Type"])
    except urllib.error.HTTPError as error:
        with error:
            return Told(error.code, error.read().decode(), error.headers["Content-Type"])
    except OSError:
        return Told(0, "", "")


async def ask(port: int, path: str, method: str = "GET") -> Told:
    """Beside whatever the event loop of the test does."""
    return await asyncio.to_thread(get, port, path, method)


async def asked(port: int, path: str, holds: Callable[[Told], bool]) -> Told:
    """Ask until the answer is as wanted."""
    deadline = time.monotonic() + 20
    while not holds(told := await ask(port, path)):
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.05)
    return told


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@asynccontextmanager
async def at_work(sh: Shell, *handlers: Any, **options: Any) -> AsyncIterator[int]:
    """A worker beside the block, and the port where it answers."""
    port = free_port()
    worker = sh.Worker(*handlers, health=f"127.0.0.1:{port}", **options)
    task = sh.start(worker.run)
    try:
        yield port
    finally:
        worker.stop()
        await task


async def test_a_worker_that_is_well(sh: Shell) -> None:
    """Alive and ready while it claims; others and noise are refused; after its end nobody listens."""
    queue = sh.queue()

    @queue.ack
    def handle(body: Any) -> None:
        pass

    async with at_work(sh, handle) as port:
        assert await asked(port, "/readyz", lambda told: told.status == 200) == (
            200,
            "ok\n",
            "text/plain; charset=utf-8",
        )
        assert (await ask(port, "/healthz?verbose")).status == 200
        assert (await ask(port, "/healthz", "HEAD"))[:2] == (200, "")
        assert (await ask(port, "/healthz", "POST")).status == 405
        assert (await ask(port, "/"))[:2] == (404, "there is no such page; there are /healthz /readyz /metrics\n")
        for said, status in ((b"noise\r\n\r\n", b"400"), (b"x" * 20_000, b"431")):
            assert (await asyncio.to_thread(converse, port, said)).split()[1] == status
    assert (await ask(port, "/healthz")).status == 0


def converse(port: int, said: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(said)
        return client.recv(4096)


async def test_a_client_that_says_nothing_holds_up_nobody(sh: Shell) -> None:
    """Forty connections that stay silent: who asks is answered."""
    queue = sh.queue()

    @queue.ack
    def handle(body: Any) -> None:
        pass

    async with at_work(sh, handle) as port:
        await asked(port, "/readyz", lambda told: told.status == 200)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        assert (await ask(port, "/healthz")).status == 200
        for each in silent:
            each.close()


async def test_leaving_is_not_ready(sh: Shell) -> None:
    """While its last handler finishes it is alive, and not ready any more."""
    queue, over = sh.queue(), asyncio.Event()
    begun: list[Any] = []

    @queue.ack
    def handle(body: Any) -> None:
        begun.append(body)
        while not over.is_set():
            time.sleep(0.01)

    await sh(queue.put(1))
    port = free_port()
    worker = sh.Worker(handle, health=f"127.0.0.1:{port}")
    task = sh.start(worker.run)
    assert await until(lambda: begun)
    worker.stop()
    assert "it stops" in (await asked(port, "/readyz", lambda told: told.status == 503)).text
    assert (await ask(port, "/healthz")).status == 200
    over.set()
    await task


async def test_quiet_is_not_ready(sh: Shell) -> None:
    """Told from afar to claim no more, it is alive, and not ready."""
    queue = sh.queue()

    @queue.ack
    def handle(body: Any) -> None:
        pass

    async with at_work(sh, handle) as port:
        await asked(port, "/readyz", lambda told: told.status == 200)
        words = [
            "workers",
            "quiet",
            f"{host_name()}-{os.getpid()}",
            "--url",
            sh.url,
            "--prefix",
            sh.prefix,
            "--queue",
            "q",
        ]
        told = asyncio.create_task(asked(port, "/readyz", lambda told: told.status == 503))
        done = await asyncio.create_subprocess_exec(sys.executable, "-m", "reliq", *words)
        assert await done.wait() == 0
        assert (await told).text == "not ready: it was told from afar to claim no more\n"
        assert (await ask(port, "/healthz")).status == 200


async def test_a_stuck_handler_is_not_alive(sh: Shell) -> None:
    """A thread past its timeout cannot be killed: /healthz names the message until it comes back."""
    queue, over = sh.queue(), asyncio.Event()

    @queue.ack(timeout=0.2)
    def handle(body: Any) -> None:
        while not over.is_set():
            time.sleep(0.01)

    id = await sh(queue.put(1))
    async with at_work(sh, handle) as port:
        told = await asked(port, "/healthz", lambda told: told.status == 503)
        assert told.text.startswith(f"HANDLER_STUCK: queue q: message {id} is in hand for ")
        assert (await ask(port, "/readyz")).status == 200
        over.set()
        await asked(port, "/healthz", lambda told: told.status == 200)


async def test_redis_that_does_not_answer(own_sh: Shell, own_server: RedisServer) -> None:
    """Neither alive nor ready after two thirds of the lease, with the reason; well again when Redis is back."""
    queue = own_sh.queue(lease=1.5, timeout=0.3)

    @queue.ack
    def handle(body: Any) -> None:
        pass

    async with at_work(own_sh, handle) as port:
        await asked(port, "/readyz", lambda told: told.status == 200)
        own_server.suspend()
        told = await asked(port, "/healthz", lambda told: told.status == 503)
        assert told.text.startswith("CLAIM_LOOP_STALLED: queue q: Redis answered its last round trip ")
        assert (await ask(port, "/readyz")).status == 503
        own_server.resume()
        for page in ("/healthz", "/readyz"):
            await asked(port, page, lambda told: told.status == 200)


async def test_a_port_in_use(sh: Shell) -> None:
    """One clear error at the start, and so for what is no address."""
    queue = sh.queue()

    @queue.ack
    def handle(body: Any) -> None:
        pass

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = "{}:{}".format(*taken.getsockname())
        with pytest.raises(ConfigError, match=f"health '{where}': cannot listen there: Address already in use"):
            await sh.start(sh.Worker(handle, health=where).run)
    for wrong in ("8080", "localhost:http", "localhost:99999", ":"):
        with pytest.raises(ConfigError, match="write it as HOST:PORT"):
            sh.Worker(handle, health=wrong)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name, queue and other label, as the parser of Prometheus reads it."""
    return {
        (sample.name, sample.labels.pop("queue", ""), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("kind", ["plain", "coroutine", "with lease"])
async def test_what_a_worker_counts(sh: Shell, kind: str) -> None:
    """Acks, retries by cause, dead letters by cause, run and queue times: each message once, under its queue."""
    queue = sh.queue(retry=reliq.Retry(attempts=2, wait=lambda state: 0.01))
    released: list[Any] = []

    def work(body: Any) -> None:
        if body == "slow":
            time.sleep(0.06)
        if body == "fail":
            raise ValueError("no")
        if body == "bury":
            raise reliq.Bury("no such account")
        if body == "later" and not released:
            released.append(body)
            raise reliq.Release

    if kind == "plain":
        handle = queue.ack(work)
    elif kind == "coroutine":

        @queue.ack
        async def handle(body: Any) -> None:
            work(body)
    else:

        @queue.ack
        def handle(body: Any, lease: Any) -> None:
            work(body)

    await sh(queue.put_many(["slow", "fail", "bury", "later", *range(20)]))
    async with at_work(sh, handle, concurrency=2) as port:
        wanted = lambda told: samples(told.text).get(("reliq_acks_total", "q")) == 22  # noqa: E731
        told = await asked(port, "/metrics", wanted)
    found = samples(told.text)
    assert told.kind.startswith("text/plain; version=")
    assert {key: value for key, value in found.items() if key[0] == "reliq_retries_total" and value} == {
        ("reliq_retries_total", "q", "failed"): 1,
        ("reliq_retries_total", "q", "put_back"): 1,
    }
    assert {key[2]: value for key, value in found.items() if key[0] == "reliq_dead_letters_total" and value} == {
        "ATTEMPTS": 1,
        "BURIED": 1,
    }
    assert found["reliq_run_time_seconds_count", "q"] == 26
    assert 0.06 <= found["reliq_run_time_seconds_sum", "q"] < 5
    assert found["reliq_run_time_seconds_bucket", "q", "+Inf"] == 26
    assert found["reliq_run_time_seconds_bucket", "q", "0.05"] == 25
    assert found["reliq_queue_time_seconds_count", "q"] == 24
    assert found["reliq_late_acks_total", "q"] == found["reliq_lost_leases_total", "q"] == 0
    assert 0 < found["reliq_lease_headroom_seconds", "q"] <= 15


async def test_without_the_package(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """/metrics says which extra is missing, with status 501; the other pages are as ever."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "reliq.telemetry.prometheus.find_spec", lambda name: None if name == "prometheus_client" else find(name)
    )
    queue = sh.queue()

    @queue.ack
    def handle(body: Any) -> None:
        pass

    async with at_work(sh, handle) as port:
        await asked(port, "/readyz", lambda told: told.status == 200)
        status, text, _ = await ask(port, "/metrics")
    assert status == 501
    assert "pip install 'reliq[prometheus]'" in text
