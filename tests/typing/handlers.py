"""What type checkers must see in a handler. Checked by `mypy --strict` in scripts/check, never run.

A line that must be refused carries a `type: ignore` with its code: if it is accepted, mypy says that the
ignore is not used.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import tenacity
from typing_extensions import assert_type

import reliq
from reliq import aio
from reliq.ack import Handler

q = reliq.Queue("emails")
a = aio.Queue("emails")

Email = dict[str, str]


@q.ack
def bare(body: Email) -> int:
    return len(body)


@q.ack(retry=reliq.Retry(attempts=3, wait=tenacity.wait_fixed(1)), timeout=30)
def with_options(body: Email) -> int:
    return len(body)


@q.ack(timeout=30)
def with_lease(body: Email, *, lease: reliq.Lease | None = None, dry: bool = False) -> str:
    return lease.trace_id if lease is not None else str(dry)


@q.ack
async def coroutine(body: Email) -> int:
    return len(body)


@a.ack
async def in_asyncio(body: Email, lease: aio.Lease) -> None:
    await lease.ack()


@a.ack(timeout=1.5)
def plain_in_asyncio(body: Email) -> bool:
    return bool(body)


def existing(body: Email, /) -> float:
    return 1.0


assert_type(q.ack(existing), Handler[[Email], float])
assert_type(q.ack(existing, timeout=30), Handler[[Email], float])

# Still callable as the plain function, with its types.
assert_type(bare({"to": "ada"}), int)
assert_type(with_options(body={"to": "ada"}), int)
assert_type(with_lease({}, dry=True), str)
assert_type(plain_in_asyncio({}), bool)
awaitable: Coroutine[Any, Any, int] = coroutine({})
bare(1)  # type: ignore[call-overload]
bare()  # type: ignore[call-overload]
with_lease({}, lease=1)  # type: ignore[call-overload]
with_lease({}, wet=True)  # type: ignore[call-overload]

# Options by name only, and of their types.
q.ack(existing, 30)  # type: ignore[call-overload]
q.ack(retry=3)  # type: ignore[call-overload]
q.ack(timeout="30")  # type: ignore[call-overload]
q.ack("emails")  # type: ignore[call-overload]
a.ack(retries=3)  # type: ignore[call-overload]


def pull(consumer: reliq.Consumer) -> None:
    for lease in consumer:
        assert_type(lease, reliq.Lease)
        # Given a lease it settles that; after a failure there is no result.
        assert_type(bare(lease), int | None)


async def pull_in_asyncio(consumer: aio.Consumer) -> None:
    async for lease in consumer:
        assert_type(lease, aio.Lease)


# Any handler runs in either worker.
reliq.Worker(bare, with_lease, coroutine, in_asyncio, concurrency=4, processes=2)
aio.Worker(bare, with_lease, coroutine, in_asyncio, concurrency=4)
reliq.Worker(existing)  # type: ignore[arg-type]


@q.ack(batch=100, wait=0.5)
def many(bodies: list[Email], leases: list[reliq.Lease]) -> int:
    return len(bodies)


assert_type(many([{"to": "ada"}], []), int)
q.ack(existing, batch="100")  # type: ignore[call-overload]


@reliq.idempotent(key="to")
@q.ack
def once(body: Email) -> int:
    return 1


assert_type(once({"to": "ada"}), int)


@q.ack
@reliq.idempotent(key=lambda body: body["to"], ttl=60)
def also_once(body: Email) -> int:
    return 1


assert_type(also_once({"to": "ada"}), int)
reliq.idempotent("to")  # type: ignore[call-arg]  # by name only
