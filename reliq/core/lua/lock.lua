-- Shared by the scripts of the exclusive mode: what stands at the right end of ready, and whether it is what was read.

-- Up to so many elements from the right end, the oldest first, without bells, which are dropped on the way.
local function oldest(list, most, budget, measure)
  while true do
    local seen, bells = from_right(list, most, budget, measure), 0
    for i = 1, #seen do
      bells = bells + (seen[i] == BELL and 1 or 0)
    end
    if bells == 0 then
      return seen
    end
    redis.call('LREM', list, -bells, BELL)
  end
end

-- What tells these messages, in this order, from all others: length, checksum, counters and id of each.
local function digest(elements)
  local heads = {}
  for i = 1, #elements do
    heads[i] = sub(elements[i], 1, 39)
  end
  return redis.sha1hex(table.concat(heads))
end

-- Put these in the place of as many, the oldest first. They were made before anything is removed, and the list is one,
-- so neither of the two writes can fail; to set one after the other would take four times as long.
local function replace(list, elements)
  local back = {}
  for i = #elements, 1, -1 do
    back[#back + 1] = elements[i]
  end
  redis.call('LTRIM', list, 0, -#elements - 1)
  redis.call('RPUSH', list, unpack(back))
end

-- Their ids, for the ledger.
local function ids_of(elements)
  local ids = {}
  for i = 1, #elements do
    ids[i] = to_hex(elements[i], 24)
  end
  return table.concat(ids, ' ')
end

-- Consumers that slept while the queue was taken may have a BLMOVE under way: what it brought goes back to the head.
local function call_in(ready, inboxes)
  for _, inbox in ipairs(inboxes) do
    local brought = redis.call('LRANGE', inbox, 0, -1)
    for i = #brought, 1, -1 do
      redis.call('RPUSH', ready, brought[i])
    end
    redis.call('DEL', inbox)
  end
end
