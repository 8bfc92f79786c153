-- free: who holds the queue for himself alone lets it go.
--
-- Guarantee: only the holder can. What he had in hand stays recorded, and counts as lost when the queue is next seized.
-- KEYS  1 lock  2 consumers  3 stats  4 session  5 events
-- ARGV  1 holder
-- Returns 1 it is free | 0 he did not hold it any more; nothing of him is left either way
-- Cost  O(log consumers)
local held = redis.call('HGET', KEYS[3], 'exclusive') == ARGV[1]
redis.call('HLEN', KEYS[1])
redis.call('HLEN', KEYS[4])
redis.call('ZREM', KEYS[2], ARGV[1]) -- allowed when out of memory; so is what follows
redis.call('DEL', KEYS[4])
if not held then
  return 0
end
redis.call('HDEL', KEYS[3], 'exclusive')
redis.call('HDEL', KEYS[1], 'holder')
redis.call('HSET', KEYS[1], 'left', ARGV[1])
redis.pcall('XADD', KEYS[5], 'MAXLEN', '~', '10000', '*', 'event', 'stop', 'id', '', 'consumer', ARGV[1], 'detail', '')
return 1
