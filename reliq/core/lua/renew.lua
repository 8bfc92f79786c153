-- renew: a supervisor lengthens the lease of its child, whose own trips may be held up by a handler that
-- holds the interpreter lock.
--
-- Guarantee: never brings back a consumer that was marked dead or has left. The session says for which trip it was:
--   as long as that is the last one, the lease says nothing about the child's own loop.
-- KEYS  1 consumers  2 session
-- ARGV  1 consumer  2 lease, ms
-- Returns 1 renewed | 0 it is dead or gone
-- Cost  O(log consumers)
if redis.call('HEXISTS', KEYS[2], 'dead') == 1 or not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
local t = redis.call('TIME')
redis.call('ZREM', KEYS[1], '') -- allowed when out of memory; so is the next
redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], 'renewed', redis.call('HGET', KEYS[2], 'trip') or '0')
return 1
