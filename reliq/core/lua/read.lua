-- read: the next batch of who holds the queue for himself alone. It stays where it is.
--
-- Guarantee: calls of a holder are numbered. The next number runs; the last one again changes nothing, and returns the
--   same batch if that is still at the right end, else none; an older one changes nothing; nor does one of somebody
--   who does not hold the lock. What is read is recorded, so that whoever takes over knows what was in hand. Raw
--   bodies get their envelopes in their place, at most 100 a call. Every read that could fail on a wrong type stands
--   before the first write.
-- KEYS  1 ready  2 lock  3 consumers  4 stats  5 later  6 dead  7 events
--       8.. inboxes of consumers that slept when the queue was taken
-- ARGV  1 holder  2 number  3 lease, ms  4 most elements  5 most bytes, also of bodies beside the list
--       6 most to promote
-- Returns {'ok' | 'again' | 'stale' | 'lost', server ms, fence, number of the batch, span and size (see
--   core/exclusive.py), messages in ready (-1: there are some, but the queue is paused, and none are read), ms until
--   something is due (-1: nothing), elements, the next one first}
-- Cost  O(elements + promoted), each bounded by 1,000 elements or 256 kB; one larger element goes alone
local MOST_RAW = 100 -- to make an envelope takes twenty times as long as to read one
local READY, LOCK, CONSUMERS, STATS, LATER, DEAD, EVENTS = unpack(KEYS, 1, 7)
local name, number, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local want, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local stats = redis.call('HMGET', STATS, 'exclusive', 'paused')
if stats[1] ~= name then
  return {'lost', now, 0, 0, 0, 0, 0, -1, {}}
end
local lock = redis.call('HMGET', LOCK, 'number', 'fence', 'batch', 'count', 'digest', 'span', 'size')
local last, fence, batch = tonumber(lock[1] or '0'), tonumber(lock[2] or '0'), tonumber(lock[3] or '0')
local span, size = tonumber(lock[6] or '0'), tonumber(lock[7] or '0')
if number < last then
  return {'stale', now, 0, 0, 0, 0, 0, -1, {}}
end

redis.call('LLEN', READY)
redis.call('ZSCORE', CONSUMERS, name)
redis.call('ZCARD', DEAD)
local head = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')
local inboxes = {unpack(KEYS, 8)}
for _, inbox in ipairs(inboxes) do
  redis.call('LLEN', inbox)
end
redis.call('ZREM', LATER, '') -- allowed when out of memory; from here on everything is
redis.call('ZADD', CONSUMERS, now + lease, name)
call_in(READY, inboxes)

local function note(event, id, detail)
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', event, 'id', id, 'consumer', name, 'detail', detail)
end

if number == last then
  local held = oldest(READY, tonumber(lock[4] or '0'), budget, weight)
  if digest(held) ~= lock[5] then
    held = {}
  end
  return {'again', now, fence, batch, span, size, redis.call('LLEN', READY), 0, held}
end
if last < number - 1 then -- it had the answers to those in between: they are forgotten
  note('rollback', '', 'calls ' .. last + 1 .. ' to ' .. number - 1)
end

-- Promote what is due: pushed left, behind what waits already.
if head[2] and tonumber(head[2]) <= now then
  local left, bytes, step = tonumber(ARGV[6]), 0, 1
  while left > 0 do
    local due = redis.call('ZRANGEBYSCORE', LATER, '-inf', now, 'LIMIT', 0, math.min(left, step))
    left = #due < step and 0 or left - #due
    for i = 1, #due do
      if bytes > 0 and bytes + #due[i] > budget then
        left = 0
        break
      end
      bytes = bytes + #due[i]
      redis.call('LPUSH', READY, due[i])
      redis.call('ZREM', LATER, due[i])
    end
    step = 16
  end
  head = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')
end

-- What waits for the turn of its tenant, or for its group, too: here all goes in the order in which it was put.
local shared = redis.call('ZRANGEBYSCORE', LATER, 6000000000000000, '+inf', 'LIMIT', 0, math.min(want, 100))
for i = 1, #shared do
  redis.call('LPUSH', READY, shared[i])
  redis.call('ZREM', LATER, shared[i])
end

if stats[2] then
  want = 0
end
local elements, wrapped = {}, 0
for i, element in ipairs(oldest(READY, size > 0 and math.min(size, want) or want, budget, weight)) do
  if not whole(element) then
    local is_large = #element > 268435456 -- a dead letter, as where a trip claims it
    if is_large and i > 1 or wrapped == MOST_RAW then
      break
    end
    element = wrap(element, now, name .. ':' .. number .. ':' .. i)
    if is_large then
      local id = to_hex(element, 24)
      local why = {id = id, cause = 'TOO_LARGE', worker = name, error = 'a raw body of ' .. #element - 43 .. ' bytes'}
      redis.call('ZADD', DEAD, now, cmsgpack.pack(why) .. element)
      redis.call('RPOP', READY)
      note('bury', id, 'TOO_LARGE')
      break
    end
    wrapped = wrapped + 1
  end
  elements[i] = element
end
if wrapped > 0 then
  replace(READY, elements)
end

local bytes = 0
for i = 1, #elements do
  bytes = bytes + #elements[i]
end
if #elements > 0 then
  fence, batch = fence + 1, batch + 1
end
redis.call('HSET', LOCK, 'number', number, 'outcome', '', 'fence', fence, 'batch', batch, 'count', #elements,
  'bytes', bytes, 'digest', digest(elements))
local due = head[2] and math.max(tonumber(head[2]) - now, 0) or -1
local ready = redis.call('LLEN', READY)
return {'ok', now, fence, batch, span, size, stats[2] and ready > 0 and -1 or ready, due, elements}
