"""What tracing costs: `python -m scripts.bench.trace`. No bar, and no part of a full run.

For no message, one in a hundred, and every one traced, in turn: ``put`` one by one and ``put_many`` in calls of
500 by one producer, then the handling of all of them by one worker with a handler that does nothing; the median of
the rounds. And what one traced message leaves in Redis, in bytes of the stream, while that is not trimmed.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Final

import redis

import reliq
from scripts.bench.lab import Lab, body, timed

SHARES: Final = (0.0, 0.01, 1.0)
CALL: Final = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20_000, help="of put_many; a tenth of that one by one")
    args = parser.parse_args()
    found: dict[float, list[tuple[float, ...]]] = {share: [] for share in SHARES}
    with Lab().server() as server, redis.Redis(port=server.port) as client:
        for _ in range(args.rounds):
            for share in SHARES:
                found[share].append(measure(server.url, share, args.messages))
                client.flushall()
        per_message = stored(client, server.url)
    print(f"{'trace=':<10}{'put/s':>12}{'put_many/s':>14}{'handled/s':>14}")
    for share, rounds in found.items():
        put, many, handled = (median(each) for each in zip(*rounds, strict=True))
        print(f"{share:<10}{put:>12,.0f}{many:>14,.0f}{handled:>14,.0f}")
    print(f"a traced message leaves {per_message:,.0f} bytes")


def measure(url: str, share: float, messages: int) -> tuple[float, float, float]:
    """Rates per second: put, put_many, handled."""
    with reliq.Queue("bench", url, trace=share) as queue:
        worker = reliq.Worker(queue.ack(lambda _: None), until_empty=True)
        one_by_one = messages // 10
        queue.put(body(0))
        put = timed(lambda: [queue.put(body(i)) for i in range(one_by_one)])
        starts = range(0, messages, CALL)
        many = timed(lambda: [queue.put_many(body(i) for i in range(start, start + CALL)) for start in starts])
        handled = timed(worker.run)
    return one_by_one / put, messages / many, (messages + one_by_one) / handled


def stored(client: redis.Redis, url: str, messages: int = 2_000) -> float:
    """Bytes of the stream per message that went the usual way."""
    with reliq.Queue("bench", url, trace=True) as queue:
        queue.put_many(body(i) for i in range(messages))
        reliq.Worker(queue.ack(lambda _: None), until_empty=True).run()
        return float(client.memory_usage(queue.options.keys.traces, samples=0)) / messages


if __name__ == "__main__":
    main()
