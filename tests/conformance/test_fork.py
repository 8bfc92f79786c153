"""A queue made, or used, before a fork works on both sides; a consumer is the parent's."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.servers import ExternalServer, RedisServer


def test_fork(server: RedisServer | ExternalServer, prefix: str) -> None:
    """The child puts and drains through the inherited queue; the inherited consumer raises; the parent goes on."""
    script = """
        import os, sys
        import reliq
        q = reliq.Queue("q", sys.argv[1], prefix=sys.argv[2])
        q.put("before")
        c = q.consumer()
        (lease,) = c.claim()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                c.claim(timeout=0)
            except reliq.errors.ConsumerClosed as error:
                status = 2
                try:
                    lease.ack()
                except reliq.errors.ConsumerClosed:
                    q.put("child")
                    c.close()
                    status = 0
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        lease.ack()
        (lease,) = c.claim(timeout=5)
        print(lease.body)
        lease.ack()
        q.put("after")
        (lease,) = c.claim(timeout=5)
        lease.ack()
        c.close()
        print(lease.body, tuple(q.size()))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script), server.url, prefix],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0\nchild\nafter (0, 0, 0, 0)\n"
