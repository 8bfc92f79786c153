-- sift: look for a message in a part of a list.
--
-- Guarantee: it only reads. From the left nothing is missed that stays in the list while it is read part by part:
--   consumers take from the right, and what is put pushes the rest on.
-- KEYS  1 list
-- ARGV  1 id, 16 bytes  2 'left' | 'right': the end that positions count from  3 position of the first one
--       4 how many to read at first  5 most elements  6 most bytes  7 most bytes of a match
-- Returns {server ms, length, so many were looked at, size of the largest, first 39 bytes of the first and of the
--   last one, match {position from the right, size, first bytes} or {}}
-- Cost  O(elements + nodes between them and the nearer end), at most as ARGV 5 and 6 say; a first one that is larger
--   is read alone
local list, id, from = KEYS[1], ARGV[1], tonumber(ARGV[3])
local step, most, budget = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local t = redis.call('TIME')
local length = redis.call('LLEN', list)
local looked, bytes, largest, first, last, match = 0, 0, 1, '', '', {}

local function read(start, count)
  if ARGV[2] == 'left' then
    return redis.call('LRANGE', list, start, start + count - 1)
  end
  local page = redis.call('LRANGE', list, -start - count, -start - 1)
  for i = 1, math.floor(#page / 2) do
    page[i], page[#page + 1 - i] = page[#page + 1 - i], page[i]
  end
  return page
end

while looked < most and #match == 0 and (looked == 0 or bytes < budget) do
  local page = read(from + looked, step)
  for i = 1, #page do
    local element = page[i]
    bytes, largest = bytes + #element, math.max(largest, #element)
    first = looked == 0 and string.sub(element, 1, 39) or first
    last = string.sub(element, 1, 39)
    if #match == 0 and string.sub(element, 24, 39) == id and whole(element) then
      local at = ARGV[2] == 'left' and length - 1 - from - looked or from + looked
      match = {at, #element, string.sub(element, 1, tonumber(ARGV[7]))}
    end
    looked = looked + 1
  end
  if #page < step then
    break
  end
  step = math.min(most - looked, looked * 2, math.max(1, math.floor((budget - bytes) / largest)))
end
return {t[1] * 1000 + math.floor(t[2] / 1000), length, looked, largest, first, last, match}
