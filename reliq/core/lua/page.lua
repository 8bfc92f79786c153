-- page: some elements of a list from its left end, or members of a sorted set by score, as many as may be read at
-- once: Redis is not held longer by large ones than by many.
--
-- KEYS  1 list or sorted set
-- ARGV  1 how many to pass over  2 most to read  3 most bytes (a first one that is larger comes alone)
--       4 lowest and 5 highest score, if it is a sorted set
--       6 mark of the last one that is passed over ('' for any): SHA-1 of its length and its first 4,096 bytes
-- Returns {1, element, ...} or {1, member, score, ...}: nothing behind the 1 at the end, and only there
--   | {0} another one stands where the marked one stood
-- Cost  O(passed over + read)
local sorted = redis.call('TYPE', KEYS[1]).ok == 'zset'
local start, most, budget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function read(from, count)
  if sorted then
    return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[4], ARGV[5], 'WITHSCORES', 'LIMIT', from, count)
  end
  return redis.call('LRANGE', KEYS[1], from, from + count - 1)
end

if ARGV[6] ~= '' then
  local last = read(start - 1, 1)[1]
  if not last or redis.sha1hex(#last .. ':' .. string.sub(last, 1, 4096)) ~= ARGV[6] then
    return {0}
  end
end

local width = sorted and 2 or 1
local page, count, bytes, largest, step = {1}, 0, 0, 1, 1
while count < most do
  local part = read(start + count, step)
  for i = 1, #part, width do
    bytes = bytes + #part[i]
    if count > 0 and bytes > budget then
      return page
    end
    largest = math.max(largest, #part[i])
    for j = i, i + width - 1 do
      page[#page + 1] = part[j]
    end
    count = count + 1
  end
  if #part < step * width then
    return page
  end
  step = math.min(most - count, count * 2, 32, math.max(1, math.floor((budget - bytes) / largest)))
end
return page
