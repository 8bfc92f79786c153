-- unschedule: remove a schedule. Messages of its ticks stay where they are.
--
-- Guarantee: no tick fires after this; works when Redis is out of memory.
-- KEYS  1 schedules  2 ticks  3 stats
-- ARGV  1 name
-- Returns 1 it is gone | 0 there was none
-- Cost  O(log schedules)
local SCHEDULES, TICKS, STATS = unpack(KEYS)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZSCORE', TICKS, '')
redis.call('HGET', STATS, 'tick_at')
local known = redis.call('HDEL', SCHEDULES, ARGV[1]) -- allowed when out of memory; so is what follows
redis.call('ZREM', TICKS, ARGV[1])
note_soonest(TICKS, STATS, now)
if known == 1 then
  return 1
end
return 0
