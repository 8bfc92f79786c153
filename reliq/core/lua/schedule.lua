-- schedule: add a schedule, or change it.
--
-- Guarantee: it changes what the caller has read, or nothing. A repeat, or another process with the same definition,
--   changes nothing, so no tick is shifted, lost or doubled by it. Refused under out-of-memory before anything is
--   written.
-- KEYS  1 schedules (HASH name -> definition)  2 ticks (ZSET name -> next tick, server ms)  3 stats  4 ready
--       5 consumers  6 later
-- ARGV  1 name  2 definition as it was read, 3 its next tick as that was read (both '': there was none)
--       4 definition from now on  5 its next tick
-- Returns 1 it is there, from now on or since before | 0 it is not as it was read: nothing changed
-- Cost  O(log schedules + log consumers)
local SCHEDULES, TICKS, STATS, READY, CONSUMERS, LATER = unpack(KEYS)
local name, tick = ARGV[1], tonumber(ARGV[5])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local was, score = redis.call('HGET', SCHEDULES, name), redis.call('ZSCORE', TICKS, name)
local told = redis.call('HGET', STATS, 'tick_at')
local idle = redis.call('LLEN', READY) == 0
local head = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2]
local live = redis.call('ZCOUNT', CONSUMERS, now, '+inf')
if was == ARGV[4] and score then
  if not told then -- somebody has deleted it
    note_soonest(TICKS, STATS, now)
  end
  return 1
end
if (was or '') ~= ARGV[2] or tonumber(score or '') ~= tonumber(ARGV[3]) then
  return 0
end

redis.call('HSET', SCHEDULES, name, ARGV[4])
redis.call('ZADD', TICKS, ARGV[5], name)
note_soonest(TICKS, STATS, now)
-- Idle consumers sleep until what was next. If this is sooner, one of them must know.
if idle and live > 0 and tick < tonumber(told or 'inf') and tick < tonumber(head or 'inf') then
  redis.call('LPUSH', READY, '\193rlq\0')
end
return 1
