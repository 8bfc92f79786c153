-- Shared by the scripts of schedules: how consumers learn when the next tick is.

-- Write down when the earliest tick is, for the trips of consumers. While one is due, somebody fires it, or is to try
-- again within a second.
local function note_soonest(ticks, stats, now)
  local first = redis.call('ZRANGE', ticks, 0, 0, 'WITHSCORES')[2]
  if not first then
    redis.call('HDEL', stats, 'tick_at')
    return nil
  end
  local at = tonumber(first)
  if at <= now then
    at = math.min(tonumber(redis.call('HGET', stats, 'tick_at') or now), now + 1000)
  end
  redis.call('HSET', stats, 'tick_at', at)
  return at
end
