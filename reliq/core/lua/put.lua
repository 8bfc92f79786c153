-- put: accept new messages, into ready or into later.
--
-- Guarantee: a repeat with the same producer and sequence adds nothing (I7), and with an explicit id the
--   marker does the same for anybody. Refused under out-of-memory before anything is written. A repeat changes
--   nothing, but it is a write (of what stands there), so that a WAIT behind it waits for the first time too.
-- KEYS  1 ready  2 producers (HASH producer -> sequence, and ":ms" if a sweep has found it idle)
--       unless it is plainly for now: 3 later  4 consumers  5 marker (optional)
-- ARGV  1 producer  2 sequence
--       with KEYS 3: 3 'ready' | 'in' | 'at'  4 ms of delay, or Unix ms  5 dedupe window, ms
--       .. elements, the first put first
-- Returns 1 accepted | 0 this was here before
-- Cost  O(elements); at most 1,000 elements or 256 kB a call, one larger element goes alone
local seen = redis.call('HGET', KEYS[2], ARGV[1])
local mark = KEYS[5] and redis.call('GET', KEYS[5])
local last = seen and (tonumber(seen) or tonumber(string.match(seen, '^%d+')))
local repeated = last and tonumber(ARGV[2]) <= last
if repeated or mark then
  redis.call('HDEL', KEYS[2], '') -- allowed when out of memory; so is what follows
  if repeated then
    redis.call('HSET', KEYS[2], ARGV[1], seen)
  else
    redis.call('SET', KEYS[5], mark, 'KEEPTTL')
  end
  return 0
end
if not KEYS[3] then
  redis.call('LPUSH', KEYS[1], unpack(ARGV, 3))
elseif ARGV[3] == 'ready' then
  if KEYS[5] then
    redis.call('LLEN', KEYS[1]) -- of the wrong type? then fail before the first write
    redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
  end
  redis.call('LPUSH', KEYS[1], unpack(ARGV, 6))
else
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  local due = tonumber(ARGV[4])
  if ARGV[3] == 'in' then
    due = now + due
  end
  local idle = redis.call('LLEN', KEYS[1]) == 0
  local head = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  local live = redis.call('ZCOUNT', KEYS[4], now, '+inf') -- before the first write: it may fail
  if KEYS[5] then
    redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
  end
  for i = 6, #ARGV do
    redis.call('ZADD', KEYS[3], due, ARGV[i])
  end
  -- Idle consumers sleep until what was due first. If this is due sooner, one of them must know.
  if idle and (not head[2] or due < tonumber(head[2])) and live > 0 then
    redis.call('LPUSH', KEYS[1], '\193rlq\0')
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
