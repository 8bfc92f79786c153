-- sight: where a message is in a queue, in every place that it can be, at one moment; and how the queue is.
--
-- Guarantee: it only reads. The hands of the consumers named come first, each whole; then the head of ready, later
--   and dead, as far as the bounds allow. Whole says that nothing was left out: then what is not found is not there.
-- KEYS  1 ready  2 later  3 dead  4 consumers  5 stats  6.. inbox, processing list and session of each consumer
-- ARGV  1 id, 16 bytes  2 most elements  3 most bytes  4 most bytes of a match  5.. consumers
-- Returns {server ms, ready, later, dead, registered, looked at: so many of the consumers named, live ones of these,
--   messages in their hands, 1 if whole, id (hex) of the head of ready, stats {server_since, sampled_before, sampled,
--   ack, retry, bury, reap, paused, rate, burst, concurrency, shared},
--   matches {{place, consumer, position or score, size, first bytes}, ...}}
-- Cost  O(elements), at most as ARGV 2 and 3 say, or one processing list
local READY, LATER, DEAD, CONSUMERS, STATS = unpack(KEYS)
local id, left, budget, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ready, matches, complete = redis.call('LLEN', READY), {}, true
local hex = to_hex(id)

local function note(place, name, where, element)
  if #matches < 16 then
    matches[#matches + 1] = {place, name, where, #element, string.sub(element, 1, most)}
  end
end

local function is_it(element)
  return string.sub(element, 24, 39) == id and whole(element)
end

local looked, live, held = 0, 0, 0
for i = 5, #ARGV do
  if looked > 0 and (left <= 0 or budget <= 0) then
    complete = false
    break
  end
  local name, first = ARGV[i], 6 + 3 * (i - 5)
  local ends = redis.call('ZSCORE', CONSUMERS, name)
  local marks = redis.call('HMGET', KEYS[first + 2], 'dead', 'leaving')
  complete = complete and ends
  if ends and tonumber(ends) > now and not marks[1] and not marks[2] then
    live = live + 1
  end
  for j, place in ipairs({'inbox', 'doing'}) do
    local list = redis.call('LRANGE', KEYS[first + j - 1], 0, -1)
    for position = 1, #list do
      left, budget = left - 1, budget - #list[position]
      if is_it(list[position]) then
        note(place, name, position - 1, list[position])
      end
      if list[position] ~= BELL then
        held = held + 1
      end
    end
  end
  looked = looked + 1
end

-- The head of ready; a bell (put.lua) is no message.
local head, bells = '', 0
if left > 0 and budget > 0 then
  local seen = from_right(READY, left, budget, string.len)
  for i, element in ipairs(seen) do
    left, budget = left - 1, budget - #element
    if element == BELL then
      bells = bells + 1
    elseif head == '' then
      head = whole(element) and to_hex(string.sub(element, 24, 39)) or redis.sha1hex(element)
    end
    if is_it(element) then
      note('ready', '', i - 1 - bells, element)
    end
  end
  complete = complete and #seen == ready
else
  complete = complete and ready == 0
end

-- A sorted set from its low end, in small pages as from_right reads a list.
local function members(key, count, is)
  local seen, largest, step = 0, 1, 1
  while seen < count and left > 0 and budget > 0 do
    local page = redis.call('ZRANGE', key, seen, seen + step - 1, 'WITHSCORES')
    for i = 1, #page, 2 do
      left, budget, seen = left - 1, budget - #page[i], seen + 1
      largest = math.max(largest, #page[i])
      if is(page[i]) then
        note(key == LATER and 'later' or 'dead', '', page[i + 1], page[i])
      end
    end
    step = math.min(left, seen * 2, 16, math.max(1, math.floor(budget / largest)))
  end
  complete = complete and seen == count
end

local later, dead = redis.call('ZCARD', LATER), redis.call('ZCARD', DEAD)
members(LATER, later, is_it)
members(DEAD, dead, function(member)
  return string.find(member, id, 1, true) or string.find(member, hex, 1, true)
end)

local registered = redis.call('ZCARD', CONSUMERS)
complete = complete and registered == #ARGV - 4
local fields = {'server_since', 'sampled_before', 'sampled', 'ack', 'retry', 'bury', 'reap', 'paused', 'rate', 'burst',
  'concurrency', 'shared'}
return {
  now, ready - bells, later, dead, registered, looked, live, held, complete and 1 or 0, head,
  redis.call('HMGET', STATS, unpack(fields)), matches,
}
