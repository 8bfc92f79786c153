"""TLS and unix sockets: the same promises on every kind of socket."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.shell import Shell
from tests.servers import ExternalServer, RedisServer, ServerFailed, _free_port

CERTIFICATE = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"


@pytest.fixture(params=["rediss", "unix"])
def url(request: pytest.FixtureRequest, server: RedisServer | ExternalServer, tmp_path: Path) -> Iterator[str]:
    """The address of a server that listens there."""
    if not isinstance(server, RedisServer):
        pytest.skip("needs a server that it starts itself")
    place, key, cert = (str(tmp_path / name) for name in ("socket", "key.pem", "cert.pem"))
    if request.param == "unix":
        with RedisServer(server.binary, extra_args=["--unixsocket", place]):
            yield f"unix://{place}"
        return
    subprocess.run(
        ["openssl", *CERTIFICATE.split(), "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    files = [
        "--tls-key-file",
        key,
        "--tls-cert-file",
        cert,
        "--tls-ca-cert-file",
        cert,
        "--tls-auth-clients",
        "no",
    ]
    try:
        with RedisServer(server.binary, extra_args=[*files, "--tls-auth-clients", "no"]) as running:
            port = _free_port()
            running.client().config_set("tls-port", port)
            yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}"
    except ServerFailed:
        pytest.skip("this server was built without TLS")


async def test_every_kind_of_socket(sh: Shell, url: str) -> None:
    """Puts of all sizes, one by one and many, and a consumer: each reply is read whole by whoever asked."""
    q = sh.queue(url=url)
    await sh(q.put_many(range(1500)))
    assert (await sh(q.size())).ready == 1500
    other = sh.queue("other", url=url)
    for body in ("a", "b" * 1000, "c" * 300_000):
        await sh(other.put(body))
    assert [len(body) for body in await sh.drain(other)] == [1, 1000, 300_000]
