-- prolong: who holds the queue for himself alone renews his lease, also while he is at work on a batch.
--
-- Guarantee: never brings back a lock that was let go or taken over.
-- KEYS  1 consumers  2 stats
-- ARGV  1 holder  2 lease, ms
-- Returns 0 he does not hold it any more | 1 renewed | 2 renewed, and it is his duty to sweep, as of trip.lua
-- Cost  O(log consumers)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local stats = redis.call('HMGET', KEYS[2], 'exclusive', 'full_sweep_at')
redis.call('ZSCORE', KEYS[1], ARGV[1])
if stats[1] ~= ARGV[1] then
  return 0
end
redis.call('ZREM', KEYS[1], '') -- allowed when out of memory; so is what follows
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
if now < tonumber(stats[2] or '0') then
  return 1
end
redis.call('HSET', KEYS[2], 'full_sweep_at', now + 30000)
return 2
