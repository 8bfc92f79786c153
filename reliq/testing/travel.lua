-- travel: all that waits for a time in a queue is that much nearer to it. For tests alone.
--
-- Guarantee: one step. What is due then is due in the order in which it would have been. Messages are put so much
--   earlier than they were, as far as the caller has read them; one that came meanwhile is as it is.
-- KEYS  1 ready  2 later  3 stats  4 turns
-- ARGV  1 ms  2 from this score on a message waits for another one, and for no time
--       3.. pairs: an element, and the same as it would be if it was put so much earlier
-- Returns how many messages have become due
-- Cost  O(messages)
local READY, LATER, STATS, TURNS = unpack(KEYS)
local ms, parked, older = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 3, #ARGV, 2 do
  older[ARGV[i]] = ARGV[i + 1]
end
local t = redis.call('TIME')
local now, due = t[1] * 1000 + math.floor(t[2] / 1000), 0

for i, element in ipairs(redis.call('LRANGE', READY, 0, -1)) do
  if older[element] then
    redis.call('LSET', READY, i - 1, older[element])
  end
end
local later = redis.call('ZRANGE', LATER, 0, -1, 'WITHSCORES')
for i = 1, #later, 2 do
  local was = tonumber(later[i + 1])
  local is = was < parked and was - ms or was
  if was > now and is <= now then
    due = due + 1
  end
  redis.call('ZREM', LATER, later[i])
  redis.call('ZADD', LATER, string.format('%.0f', is), older[later[i]] or later[i])
end
local tokens_at = redis.call('HGET', STATS, 'tokens_at')
if tokens_at then
  redis.call('HSET', STATS, 'tokens_at', string.format('%.0f', tonumber(tokens_at) - ms))
end
-- Groups, and tenants that rest (core/lua/shares.lua, groups.lua).
for _, member in ipairs(redis.call('ZRANGEBYSCORE', TURNS, 1000000000000, '+inf')) do
  redis.call('ZINCRBY', TURNS, -ms, member)
end
redis.call('HINCRBY', STATS, 'travelled', ms)
return due
