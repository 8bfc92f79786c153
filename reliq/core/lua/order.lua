-- order: tell a consumer to do something. Its next trip finds it, and its shell does it and answers.
--
-- Guarantee: one order at a time. It moves no message. Who is idle is rung, so that its next trip is now: as a bell in
--   ready wakes whoever has slept longest, there is one for each consumer that lives; nobody is rung who holds
--   anything, as it makes a trip every second, nor while anything is ready.
-- KEYS  1 ready  2 doing  3 consumers  4 session
-- ARGV  1 consumer  2 number of the order  3 what to do  4 how long it may be done, ms
-- Returns {'given' | 'joined' | 'busy' | 'expired' | 'gone', server ms, number of the order that is there now}
-- Cost  O(log consumers + 64)
local READY, DOING, CONSUMERS, SESSION = unpack(KEYS)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ready, held = redis.call('LLEN', READY), redis.call('LLEN', DOING)
local ends = redis.call('ZSCORE', CONSUMERS, ARGV[1])
local record = redis.call('HMGET', SESSION, 'dead', 'leaving', 'order')
if not ends or record[1] or record[2] then
  return {'gone', now, ''}
end
if tonumber(ends) <= now then
  return {'expired', now, ''}
end
local number, until_ms, what = string.match(record[3] or '', '^(%S+) (%d+) (.*)$')
if number and tonumber(until_ms) > now then
  if what == ARGV[3] then
    return {'joined', now, number}
  end
  return {'busy', now, number}
end
local live = redis.call('ZCOUNT', CONSUMERS, '(' .. now, '+inf')
redis.call('ZREM', CONSUMERS, '') -- allowed when out of memory; so is what follows
redis.call('HSET', SESSION, 'order', ARGV[2] .. ' ' .. now + tonumber(ARGV[4]) .. ' ' .. ARGV[3])
if ready == 0 and held == 0 then
  for _ = 1, math.min(live, 64) do
    redis.call('LPUSH', READY, '\193rlq\0')
  end
end
return {'given', now, ARGV[2]}
