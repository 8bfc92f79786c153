"""`reliq metrics`: what Prometheus reads of the queues, by its own parser."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest
import redis as redis_py

import reliq
from reliq.cli import metrics
from reliq.core.keys import Keys
from tests.cli.conftest import Commands
from tests.cli.test_check import eventually
from tests.conformance.test_health import free_port, get, samples
from tests.servers import RedisServer


def test_a_queue_as_it_is(commands: Commands) -> None:
    """Messages by state, age, dead letters by cause, consumers, and what became of messages."""
    with commands.queue("emails", retry=reliq.Retry(attempts=1)) as queue:
        queue.put_many(range(6))
        queue.put(6, delay=60)
        with queue.consumer() as consumer:
            one, two, three, four = consumer.claim(4)
            one.ack()
            two.bury("no such account")
            three.retry(0.001)
            four.retry(0.001)
            eventually(lambda: queue.size().later == 3 or queue.size().ready > 2, "it does not go back")
            found = samples(commands("metrics").out)
        later = samples(commands("metrics", "--json").json["metrics"])
    assert sum(found["reliq_depth", "emails", state] for state in ("ready", "due", "later", "doing")) == 5
    assert found["reliq_depth", "emails", "dead"] == 1
    assert found["reliq_dead", "emails", "BURIED"] == 1
    assert 0 < found["reliq_oldest_age_seconds", "emails"] < 60
    assert (found["reliq_consumers", "emails", "live"], later["reliq_consumers", "emails", "live"]) == (1, 0)
    events = {key[2]: value for key, value in found.items() if key[0] == "reliq_events_total"}
    assert events.pop("release") < 5  # what was claimed ahead, and nobody asked for
    assert events == {"ack": 1, "retry": 2, "bury": 1} | dict.fromkeys(
        ("reap", "revive", "discard", "restore", "cancel", "reschedule"), 0
    )


def test_dead_letters_of_each_cause(commands: Commands, redis: redis_py.Redis) -> None:
    """Causes of one's own are OTHER, so that labels stay few; what is revived is gone from the next look."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue:
        ids = queue.put_many(range(3))
        with queue.consumer() as consumer:
            for lease in consumer.claim(3):
                lease.bury("no")
        redis.zadd(keys.dead, {b"no letter": 1.0})
    place = metrics.Place(commands.url, commands.prefix)
    exporter = metrics.Exporter(place, [])
    assert exporter.look()[0].causes == {"BURIED": 3, "BAD_NOTE": 1}
    assert exporter.look()[0].causes == {"BURIED": 3, "BAD_NOTE": 1}
    with commands.queue("emails") as queue:
        queue.revive(ids[0])
    assert exporter.look()[0].causes == {"BURIED": 2, "BAD_NOTE": 1}


def test_many_dead_letters_are_read_bit_by_bit(
    commands: Commands, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one answer does not get to is UNREAD; the next ones go on."""
    monkeypatch.setattr(metrics, "_STEPS", 1)
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue:
        queue.put(1)
    redis.zadd(keys.dead, {b"letter %d" % n: float(n) for n in range(600)})
    exporter = metrics.Exporter(metrics.Place(commands.url, commands.prefix), ["emails"])
    looks = [exporter.look()[0].causes for _ in range(5)]
    assert looks[0] == {"BAD_NOTE": 250, "UNREAD": 350}
    assert looks[1] == {"BAD_NOTE": 500, "UNREAD": 100}
    assert looks[-1] == {"BAD_NOTE": 600}


@pytest.fixture
def exporter(own: Commands) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A process that serves, and its port."""
    port = free_port()
    process = own.start("metrics", "--listen", f"127.0.0.1:{port}")
    assert process.stdout is not None
    assert process.stdout.readline() == f"serving /metrics on port {port}\n"
    yield port, process
    process.kill()
    process.communicate()


def test_it_serves(own: Commands, own_server: RedisServer, exporter: tuple[int, subprocess.Popen[str]]) -> None:
    """Queues appear as they come; while Redis is away that is told; SIGTERM is exit status 0."""
    port, process = exporter
    assert samples_of(port)["reliq_redis_up", ""] == 1
    with own.queue("emails") as queue:
        queue.put(1)
    assert samples_of(port)["reliq_depth", "emails", "ready"] == 1
    own_server.stop()
    eventually(lambda: samples_of(port) == {("reliq_redis_up", ""): 0}, "it does not say that Redis is away")
    own_server.start()
    eventually(lambda: samples_of(port).get(("reliq_depth", "emails", "ready")) == 1, "it does not come back")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def samples_of(port: int) -> dict[tuple[str, ...], float]:
    return samples(get(port, "/metrics").text)


def test_a_port_in_use(commands: Commands, exporter: tuple[int, subprocess.Popen[str]]) -> None:
    """One line, exit status 2."""
    result = commands("metrics", "--listen", f"127.0.0.1:{exporter[0]}")
    assert result.status == 2
    assert "cannot listen there: Address already in use" in result.error


def test_without_the_package(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the extra, exit status 2."""
    monkeypatch.setattr("reliq.telemetry.prometheus.find_spec", lambda name: None)
    result = commands("metrics")
    assert result.status == 2
    assert "pip install 'reliq[prometheus]'" in result.error
