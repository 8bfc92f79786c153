-- gate: pause a queue, let it take no more puts, let it go on, or limit how its messages are claimed.
--
-- Guarantee: from the next claim, or put, on, of whatever consumer. What is in hand is not concerned. Limits outlast a
--   pause. A repeat changes nothing. Works when Redis is out of memory.
-- KEYS  1 stats  2 events  3 producers
-- ARGV  1 'pause' | 'drain' (no more puts) | 'resume' (both are over) | 'limit'  2 who, and a word about it
--       with 'limit': 3 messages a second  4 most at once after a rest  5 most in hand of all consumers; '' none
--         6 the same three for each tenant, as shares.lua reads them ('-' none)
-- Returns 1 it is so now, and was not | 0 it was so before
-- Cost  O(1)
local STATS, EVENTS, PRODUCERS = unpack(KEYS)
local closed = redis.call('HGET', PRODUCERS, ':closed')
local before = redis.call('HMGET', STATS, 'paused', 'rate', 'burst', 'concurrency', 'shared')
local detail, changed = '', false
redis.call('HDEL', STATS, '') -- allowed when out of memory, and so is what follows

local t = redis.call('TIME')
local mark = t[1] * 1000 + math.floor(t[2] / 1000) .. ' ' .. ARGV[2]
if ARGV[1] == 'pause' then
  changed = redis.call('HSETNX', STATS, 'paused', mark) == 1
elseif ARGV[1] == 'drain' then
  changed = redis.call('HSETNX', PRODUCERS, ':closed', mark) == 1
elseif ARGV[1] == 'resume' then
  changed = before[1] or closed
  redis.call('HDEL', STATS, 'paused')
  redis.call('HDEL', PRODUCERS, ':closed')
else
  local now = {ARGV[3], ARGV[4], ARGV[5]}
  for i, field in ipairs({'rate', 'burst', 'concurrency'}) do
    if now[i] ~= (before[i + 1] or '') then
      changed = true
      if now[i] == '' then
        redis.call('HDEL', STATS, field)
      else
        redis.call('HSET', STATS, field, now[i])
      end
    end
  end
  if ARGV[3] == '' then
    redis.call('HDEL', STATS, 'tokens', 'tokens_at')
  end
  if ARGV[6] ~= (before[5] or '- - -') then
    changed = true
    redis.call('HSET', STATS, 'shared', ARGV[6])
  end
  detail = (now[1] == '' and 'no rate' or now[1] .. '/s') .. ', '
    .. (now[3] == '' and 'any number' or now[3]) .. ' at once'
  if ARGV[6] ~= '- - -' then
    detail = detail .. '; each tenant ' .. ARGV[6]
  end
end

local stands = redis.call('HMGET', STATS, 'paused', 'rate', 'concurrency')
if stands[1] or stands[2] or stands[3] then
  redis.call('HSET', STATS, 'gate', 1) -- a trip that does not find this looks no further
else
  redis.call('HDEL', STATS, 'gate')
end
if changed then
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', ARGV[1], 'id', '', 'consumer', ARGV[2],
    'detail', detail)
end
return changed and 1 or 0
