-- settle: what becomes of the batch of who holds the queue for himself alone: it goes, or stays where it is.
--
-- Guarantee: numbered, as read.lua says; the last number again returns the stored answer. Nothing is removed or marked
--   unless the right end of ready is exactly what was read: a push to that end in between is seen, and then nothing
--   changes. Dead letters are written before anything is removed.
-- KEYS  1 ready  2 lock  3 consumers  4 stats  5 dead  6 events  7 uniques  8 lanes  9 later
--       then inboxes of consumers that slept when the queue was taken, results that are waited for, and bodies that go
--       with the batch
-- ARGV  1 holder  2 number  3 lease, ms
--       4 'ack' remove it | 'retry' it failed | 'release' its handler put it back | 'return' it was not handled
--       5 messages in it  6 their bytes  7 their digest (lock.lua)  8 most failures to count for a message
--       9 span and 10 size from now on (see core/exclusive.py)  11 detail for the ledger  12 how many inboxes
--       13 how many results
--       14.. with an ack: ms to keep it and answer of each result, then dead letters: member for dead, id (hex), cause
-- Returns {'ok' | 'again' | 'stale' | 'lost', server ms, 1 if it was done, 0 if the right end is another}
-- Cost  O(batch), at most 1,000 elements or 256 kB, or one larger element
local READY, LOCK, CONSUMERS, STATS, DEAD, EVENTS, UNIQUES, LANES, LATER = unpack(KEYS, 1, 9)
local name, number, lease, verb = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local count, most = tonumber(ARGV[5]), tonumber(ARGV[8])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

if redis.call('HGET', STATS, 'exclusive') ~= name then
  return {'lost', now, 0}
end
local lock = redis.call('HMGET', LOCK, 'number', 'outcome')
local last = tonumber(lock[1] or '0')
if number < last then
  return {'stale', now, 0}
end

redis.call('LLEN', READY)
redis.call('ZCARD', DEAD)
redis.call('ZSCORE', CONSUMERS, name)
local inboxes, results = {unpack(KEYS, 10, 9 + tonumber(ARGV[12]))}, tonumber(ARGV[13])
for _, inbox in ipairs(inboxes) do
  redis.call('LLEN', inbox)
end
redis.call('ZREM', CONSUMERS, '') -- allowed when out of memory; from here on everything is
redis.call('ZADD', CONSUMERS, now + lease, name)
if number == last then
  return {'again', now, tonumber(lock[2]) or 0}
end
call_in(READY, inboxes)

local function note(event, id, detail)
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', event, 'id', id, 'consumer', name, 'detail', detail)
end

local function mark(element)
  local head, returns, failed, released, lost = read('>c13I4I2I2B', element)
  if verb == 'retry' and failed < most then
    failed = failed + 1
  elseif verb == 'release' and released < 65535 then
    released = released + 1
  end
  return write('>c13I4I2I2B', head, math.min(returns + 1, 4294967295), failed, released, lost) .. sub(element, 23)
end

local batch = oldest(READY, count, tonumber(ARGV[6]), string.len)
local found = #batch == count and digest(batch) == ARGV[7]
if not found then
  note('mismatch', '', count .. ' in hand, and not at the head any more: ' .. verb)
elseif verb == 'ack' then
  local buried = 0
  for i = 14 + 2 * results, #ARGV, 3 do
    redis.call('ZADD', DEAD, now, ARGV[i])
    note('bury', ARGV[i + 1], ARGV[i + 2])
    buried = buried + 1
  end
  redis.call('LTRIM', READY, 0, -count - 1)
  for i = 1, results do
    keep(KEYS[9 + #inboxes + i], ARGV[12 + 2 * i], ARGV[13 + 2 * i])
  end
  for i = 10 + #inboxes + results, #KEYS do
    redis.call('UNLINK', KEYS[i])
  end
  if redis.call('EXISTS', UNIQUES) == 1 then
    local lanes = turns(UNIQUES, LANES, READY, LATER)
    for i = 1, count do
      free(batch[i], UNIQUES, lanes)
    end
  end
  redis.pcall('HINCRBY', STATS, 'ack', count - buried)
  if buried > 0 then
    redis.pcall('HINCRBY', STATS, 'bury', buried)
  end
else
  local marked = {}
  for i, element in ipairs(batch) do
    marked[i] = byte(element, 5) == 1 and mark(element) or element
  end
  replace(READY, marked)
  local event = verb == 'retry' and 'retry' or 'release'
  note(event, ids_of(batch), ARGV[11])
  redis.pcall('HINCRBY', STATS, event, count)
end
redis.call('HSET', LOCK, 'number', number, 'outcome', found and 1 or 0, 'count', 0, 'digest', '')
if found then
  redis.call('HSET', LOCK, 'span', ARGV[9], 'size', ARGV[10])
end
return {'ok', now, found and 1 or 0}
