"""The batched limit: what Redis and Python can do if every message has to stand in a processing list.

A tight loop on one connection, without threads: one script settles 100 messages (LREM) and claims 100 into the
processing list (LMOVE); each body is decoded by msgpack and given to the handler. No envelope, no counters, no
lease, no lost replies. BULK claims with one LRANGE, RPUSH and LTRIM per 100 instead: it is shown beside the limit,
as what a script can do at best.
"""

from __future__ import annotations

from typing import Any

import msgpack
import redis

READY, DOING = "limit:ready", "limit:doing"
BATCH = 100

_SETTLE = "for i = 2, #ARGV do redis.call('LREM', KEYS[2], 1, ARGV[i]) end"

EACH = f"""{_SETTLE}
local claimed = {{}}
for i = 1, ARGV[1] do
  claimed[i] = redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'RIGHT') or nil
end
return claimed
"""

BULK = f"""{_SETTLE}
local newest_first = redis.call('LRANGE', KEYS[1], -ARGV[1], -1)
local claimed = {{}}
for i = #newest_first, 1, -1 do
  claimed[#claimed + 1] = newest_first[i]
end
if #claimed > 0 then
  redis.call('LTRIM', KEYS[1], 0, -#claimed - 1)
  redis.call('RPUSH', KEYS[2], unpack(claimed))
end
return claimed
"""


def drain(client: redis.Redis, handler: Any, script: str = EACH) -> int:
    """Until it is empty; returns how many."""
    sha: Any = client.script_load(script)
    connection: Any = client.connection_pool.get_connection()
    unpackb = msgpack.unpackb
    done = 0
    claimed: list[bytes] = []
    try:
        while True:
            connection.send_command("EVALSHA", sha, 2, READY, DOING, BATCH, *claimed)
            claimed = connection.read_response()
            if not claimed:
                return done
            for data in claimed:
                handler(unpackb(data))
            done += len(claimed)
    finally:
        client.connection_pool.release(connection)
