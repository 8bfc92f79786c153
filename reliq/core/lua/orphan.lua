-- orphan: a large body that no message has is removed.
--
-- Guarantee: it goes only if every place of the queue was looked through at this very moment, and no message there
--   has its ticket. Without ARGV 1 it only looks.
-- KEYS  1 body  2 ready  3 later  4 dead  5 consumers  6 events  7 stats  8.. inbox and processing list of each
--       consumer
-- ARGV  1 '1' to do it, '' to look  2 who  3 name of the body, 16 bytes  4 most elements  5 most bytes  6.. consumers
-- Returns {0} it is not there, or a message has it, or it was brought for a put that is yet to come
--   | {1, its bytes} no message has it (and it is gone)
--   | {2, its bytes} there is more than may be looked at, or a consumer that was not named; nothing was found so far
-- Cost  O(elements), at most as ARGV 4 and 5 say; a first one that is larger is read alone
local BODY, READY, LATER, DEAD, CONSUMERS, EVENTS, STATS = unpack(KEYS)
local name, left, budget = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('TYPE', BODY).ok ~= 'string' or redis.call('PTTL', BODY) >= 0 then
  return {0}
end
local size, had, whole_look = redis.call('STRLEN', BODY), false, true

-- Read a place in small pages, so that large elements behind small ones are not read in vain.
local function look(verb, key, length)
  local seen, largest, step = 0, 1, 1
  while seen < length and not had do
    if left <= 0 or budget <= 0 then
      whole_look = false
      return
    end
    local page = redis.call(verb, key, seen, seen + step - 1)
    for i = 1, #page do
      left, budget, largest = left - 1, budget - #page[i], math.max(largest, #page[i])
      had = had or string.find(page[i], name, 1, true) ~= nil
    end
    seen = seen + #page
    step = math.max(1, math.min(left, step * 4, math.floor(budget / largest)))
  end
end

-- Hands first: what is claimed is there, and is not to be missed however long the rest is.
local registered = 0
for i = 6, #ARGV do
  for j = 0, 1 do
    local list = KEYS[8 + 2 * (i - 6) + j]
    look('LRANGE', list, redis.call('LLEN', list))
  end
  registered = registered + (redis.call('ZSCORE', CONSUMERS, ARGV[i]) and 1 or 0)
end
whole_look = whole_look and registered == redis.call('ZCARD', CONSUMERS)
look('LRANGE', READY, redis.call('LLEN', READY))
look('ZRANGE', LATER, redis.call('ZCARD', LATER))
look('ZRANGE', DEAD, redis.call('ZCARD', DEAD))
if had then
  return {0}
end
if not whole_look then
  return {2, size}
end
if ARGV[1] == '1' then
  redis.call('UNLINK', BODY) -- allowed when out of memory
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', 'unlink', 'id', '',
    'consumer', ARGV[2], 'detail', size .. ' bytes, ' .. BODY)
  redis.pcall('HINCRBY', STATS, 'unlink', 1)
end
return {1, size}
