-- probe: which messages stand at one place of a list, to find another one from there: ids are ordered by time.
--
-- Guarantee: it only reads.
-- KEYS  1 list
-- ARGV  1 position, counted from the right end, from 0  2 most elements to read there  3 most bytes
-- Returns {length, size of the element there, the first 39 bytes of it, of the one left of it, ...}
-- Cost  O(nodes between the position and the nearer end)
local at, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local length = redis.call('LLEN', KEYS[1])
local first = redis.call('LINDEX', KEYS[1], -at - 1)
if not first then
  return {length, 0}
end
local found = {length, #first, string.sub(first, 1, 39)}
if most > 1 and #first * most <= tonumber(ARGV[3]) then
  local beside = redis.call('LRANGE', KEYS[1], -at - most, -at - 2)
  for i = #beside, 1, -1 do
    found[#found + 1] = string.sub(beside[i], 1, 39)
  end
end
return found
