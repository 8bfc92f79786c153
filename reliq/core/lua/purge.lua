-- purge: all that waits in ready, or in later, is taken out of the queue, and then removed part by part.
--
-- Guarantee: it goes aside as a whole in one step, and nobody claims from there. What an earlier purge has left aside
--   is not mixed with it, but told of. A part is removed only if it is exactly what was looked at; with it go the
--   bodies beside the list, and what is unique by its messages; who waits for results is told.
--   Works when Redis is out of memory.
-- KEYS  1 ready, or later  2 where it goes aside  3 events  4 stats  5 uniques  6 lanes  7 ready  8 later
--       9 what the keys of results begin with  10.. bodies of what is dropped
-- ARGV  1 'take' | 'look' | 'drop'  2 who
--       with 'take': 3 a word that no other purge has
--       with 'look' and 'drop': 3 most elements  4 most bytes; with 'drop': 5 SHA-1 of what was looked at, together
-- Returns with 'take' {1 moved aside now | 0 | 2 somebody holds the queue exclusively, how many are aside};
--   with 'look' {1 if it is a sorted set, elements, or members and scores, the next one first};
--   with 'drop' {1 removed | 0 it is not that any more, how many are left}
-- Cost  O(1); or O(elements), at most as ARGV 3 and 4 say, one larger goes alone
local PLACE, ASIDE, EVENTS, STATS = unpack(KEYS, 1, 4)
local verb = ARGV[1]
local lanes = turns(unpack(KEYS, 5, 8))
local is_set = redis.call('TYPE', verb == 'take' and PLACE or ASIDE).ok == 'zset'

local function length(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'none' and 0 or redis.call(kind == 'zset' and 'ZCARD' or 'LLEN', key)
end

if verb == 'take' then
  local here = length(PLACE)
  if redis.call('HGET', STATS, 'exclusive') then
    return {2, 0}
  end
  local aside = length(ASIDE)
  if aside > 0 and redis.call('HGET', STATS, 'purging') == ARGV[3] then -- a repeat
    return {1, aside}
  end
  if aside > 0 or here == 0 then
    return {0, aside}
  end
  redis.call('RENAME', PLACE, ASIDE) -- allowed when out of memory, and so is what follows
  if PLACE == KEYS[8] then
    redis.call('UNLINK', KEYS[6]) -- nobody waits in a lane any more: none is to be passed over one by one
  end
  redis.pcall('HSET', STATS, 'purging', ARGV[3])
  redis.pcall('HINCRBY', STATS, 'purge', here)
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', 'purge', 'id', '', 'consumer', ARGV[2],
    'detail', here .. (is_set and ' of later' or ' of ready'))
  return {1, here}
end

local seen, elements
if is_set then
  seen, elements = {}, {}
  local bytes = 0
  while #elements < tonumber(ARGV[3]) do
    local page = redis.call('ZRANGE', ASIDE, #elements, #elements + 15, 'WITHSCORES')
    for i = 1, #page, 2 do
      bytes = bytes + #page[i]
      if #elements > 0 and bytes > tonumber(ARGV[4]) or #elements == tonumber(ARGV[3]) then
        page = {}
        break
      end
      elements[#elements + 1] = page[i]
      seen[#seen + 1], seen[#seen + 2] = page[i], page[i + 1]
    end
    if #page < 32 then
      break
    end
  end
else
  elements = from_right(ASIDE, tonumber(ARGV[3]), tonumber(ARGV[4]), string.len)
  seen = elements
end
if verb == 'look' then
  return {is_set and 1 or 0, unpack(seen)}
end
if #elements == 0 or redis.sha1hex(table.concat(elements)) ~= ARGV[5] then
  return {0, length(ASIDE)}
end
if is_set then
  redis.call('ZREM', ASIDE, unpack(elements))
else
  redis.call('LTRIM', ASIDE, 0, -#elements - 1)
end
for i = 10, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
local note = cmsgpack.pack({cause = 'PURGED', error = 'purged by ' .. ARGV[2]})
for i = 1, #elements do
  lanes.unpark(elements[i], is_set and seen[2 * i])
  free(elements[i], KEYS[5], lanes)
  tell(KEYS[9], elements[i], note)
end
return {1, length(ASIDE)}
