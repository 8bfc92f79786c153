"""TLS with a private CA, on real servers that have it: what works, and how each mistake is told, in one line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import reliq
from tests.conformance.shell import Shell, until
from tests.servers import ExternalServer, RedisServer, ServerFailed, _free_port


class Scene(NamedTuple):
    """A server that takes TLS at ``port`` (and nothing else), and plain words at ``plain``; its certificate is for
    127.0.0.1 alone. ``files``: good.pem is the CA that has signed it, other.pem is another one."""

    port: int
    plain: int
    files: Path
    server: RedisServer

    @property
    def right(self) -> dict[str, Any]:
        """Settings that work."""
        return {"host": "127.0.0.1", "port": self.port, "tls": True, "tls_ca": str(self.files / "good.pem")}


def make_certificates(folder: Path) -> None:
    """Two CAs, and a certificate for 127.0.0.1 and one for a client, signed by the first."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("good", "other"):
        openssl("req", "-x509", *key, "-days", "1", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-addext", "keyUsage=critical,keyCertSign", "-out", f"{name}.pem")  # fmt: skip
    # Python from 3.13 on is strict about what a CA and its certificates say of themselves (X509_STRICT).
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    for name in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "good.pem", "-CAkey", "good.key", "-CAcreateserial",
                "-days", "1", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip


@pytest.fixture(scope="module")
def scene(server: RedisServer | ExternalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Of every server that was built with TLS."""
    if not isinstance(server, RedisServer):
        pytest.skip("needs a server that it starts itself")
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    words = ["--tls-key-file", "server.key", "--tls-cert-file", "server.pem", "--tls-ca-cert-file", "good.pem"]
    options = [str(folder / word) if "." in word else word for word in words]
    try:
        with RedisServer(server.binary, extra_args=[*options, "--tls-auth-clients", "no"]) as running:
            port = _free_port()
            running.cli("CONFIG", "SET", "tls-port", port)
            yield Scene(port, running.port, folder, running)
    except ServerFailed:
        pytest.skip(f"{server.name} was built without TLS")


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no CA": ({"tls_ca": None}, ("by TLS", "verify failed", "Name the file of the CA", "tls_ca")),
    "another CA": ({"tls_ca": "other.pem"}, ("by TLS", "verify failed", "Name the file of the CA", "tls_ca")),
    "no CA in the file": ({"tls_ca": "names"}, ("by TLS", "no certificate", "name the CA's PEM file")),
    "the key of another": (
        {"tls_cert": "client.pem", "tls_key": "good.key"},
        ("by TLS", "mismatch", "tls_key is not that of tls_cert"),
    ),
    "no key": ({"tls_cert": "client.pem"}, ("by TLS", "PEM", "tls_cert and tls_key hold no certificate and key")),
    "another name": ({"host": "localhost"}, ("localhost:", "Hostname mismatch", "tls_check_hostname")),
    "TLS to a plain port": ({"port": "plain"}, ("by TLS", "takes TLS there", "begins with redis://")),
    "plain words to TLS": ({"tls": False, "tls_ca": None}, ("127.0.0.1:", "wants TLS", "begins with rediss://")),
}


@pytest.mark.parametrize("mistake", WRONG)
async def test_a_mistake_is_told_in_one_line(sh: Shell, scene: Scene, mistake: str) -> None:
    """The address, the reason and the next step; it is refused, and not taken for a lost connection."""
    change, says = WRONG[mistake]
    said = {**scene.right, **change, "connect_timeout": 0.5}
    said |= {name: str(scene.files / said[name]) for name in ("tls_ca", "tls_cert", "tls_key") if said.get(name)}
    if said["port"] == "plain":
        said["port"] = scene.plain
    queue = sh.queue(url=None, settings=said)
    with pytest.raises(reliq.Unavailable) as caught:
        await sh(queue.ping())
    assert "\n" not in str(caught.value)
    for words in says:
        assert words in str(caught.value)


async def test_a_worker_drains_over_tls(sh: Shell, scene: Scene) -> None:
    """Puts, claims and acks, as a URL says it and as a mapping does; none of it in plain words."""
    q = sh.queue(url=None, settings=scene.right)
    await sh(q.put_many(range(50)))
    done = []

    def handle(body: int) -> None:
        done.append(body)

    handler = q.ack(handle)
    worker = sh.Worker(handler, concurrency=4, until_empty=True, signals=False)
    await sh.start(worker.run)
    assert sorted(done) == [*range(50)]
    again = sh.queue(url=f"rediss://127.0.0.1:{scene.port}/0?ssl_ca_certs={scene.files / 'good.pem'}")
    assert await sh(again.size()) == (0, 0, 0, 0)


async def test_a_certificate_of_ours(sh: Shell, scene: Scene) -> None:
    """A server that asks for one gets it; without one, the next step is to give it."""
    scene.server.cli("CONFIG", "SET", "tls-auth-clients", "yes")
    try:
        ours = {"tls_cert": str(scene.files / "client.pem"), "tls_key": str(scene.files / "client.key")}
        assert await sh(sh.queue(url=None, settings={**scene.right, **ours}).ping())
        with pytest.raises(reliq.Unavailable, match="tls_cert and tls_key"):
            await sh(sh.queue(url=None, settings=scene.right).ping())
    finally:
        scene.server.cli("CONFIG", "SET", "tls-auth-clients", "no")


async def test_the_environment_says_it_too(sh: Shell, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line is set up: by variables."""
    for name, value in scene.right.items():
        monkeypatch.setenv(f"RELIQ_{name.upper()}", str(value).lower() if name == "tls" else str(value))
    q = sh.queue(url=None)
    await sh(q.put(1))
    words = [sys.executable, "-m", "reliq", "status", "--prefix", sh.prefix, "--json"]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, timeout=60)
    assert [entry["ready"] for entry in json.loads(done.stdout)["queues"]] == [1]
    assert await sh.drain(q) == [1]
    assert await until(lambda: scene.server.cli("LLEN", q.options.keys.ready) == 0)
