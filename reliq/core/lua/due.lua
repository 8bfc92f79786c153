-- due: which ticks are due, and of which schedules.
--
-- Guarantee: it moves nothing. Who asks with ARGV 4 = 1 is told of them only if nobody else was in the last second;
--   that spares work, and nothing depends on it.
-- KEYS  1 ticks  2 schedules  3 stats
-- ARGV  1 most ticks  2 most bytes of definitions  3 how many of the first to pass over  4 1: only if nobody is at it
-- Returns {server ms, ms until one is worth another look (-1: there is none), 1 if more are due than these,
--   name, tick (server ms), definition ('': there is none any more), of each}
-- Cost  O(log schedules + ticks), at most as ARGV 1 and 2 say; one larger definition goes alone
local TICKS, SCHEDULES, STATS = unpack(KEYS)
local most, budget, skip = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local told = tonumber(redis.call('HGET', STATS, 'tick_at') or '')
redis.call('HLEN', SCHEDULES)
if ARGV[4] == '1' and told and told > now then
  return {now, told - now, 0}
end
redis.call('ZREM', TICKS, '') -- allowed when out of memory; from here on everything is

local due = redis.call('ZRANGEBYSCORE', TICKS, '-inf', now, 'WITHSCORES', 'LIMIT', skip, most + 1)
if #due == 0 then
  local at = note_soonest(TICKS, STATS, now)
  return {now, at and math.max(at - now, 0) or -1, 0}
end
if ARGV[4] == '1' then
  redis.call('HSET', STATS, 'tick_at', now + 1000)
end
local found, bytes, more = {now, 1000, 0}, 0, 0
for first = 1, math.min(#due, 2 * most), 32 do -- a page of definitions is read at once, and not many in vain
  local names = {}
  for i = first, math.min(first + 30, 2 * most, #due), 2 do
    names[#names + 1] = due[i]
  end
  local definitions = redis.call('HMGET', SCHEDULES, unpack(names))
  for n = 1, #names do
    local definition = definitions[n] or ''
    if bytes > 0 and bytes + #definition > budget then
      found[3] = 1
      return found
    end
    bytes = bytes + #definition
    found[#found + 1] = names[n]
    found[#found + 1] = due[first + 2 * n - 1]
    found[#found + 1] = definition
  end
end
found[3] = #due > 2 * most and 1 or 0
return found
