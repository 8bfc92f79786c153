-- sift_set: look for a message among some members of a sorted set: later or dead.
--
-- Guarantee: it only reads. By cursor nothing is missed that is a member all the while (SCAN promises that).
-- KEYS  1 sorted set
-- ARGV  1 id, 16 bytes  2 'cursor' | 'score'  3 cursor, or the lowest score  4 highest score, if by score
--       5 about so many members  6 most bytes of a match
-- Returns {next cursor (0: done), members, so many were looked at, size of the largest,
--   matches {{score, size, first bytes}, ...}}
-- Cost  O(ARGV 5)
local id, hex, count = ARGV[1], to_hex(ARGV[1]), tonumber(ARGV[5])
local cursor, page = '0', nil
if ARGV[2] == 'cursor' then
  local found = redis.call('ZSCAN', KEYS[1], ARGV[3], 'COUNT', count)
  cursor, page = found[1], found[2]
else
  page = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[3], ARGV[4], 'WITHSCORES', 'LIMIT', 0, count)
end
local largest, matches = 1, {}
for i = 1, #page, 2 do
  local member = page[i]
  largest = math.max(largest, #member)
  if #matches < 16 and (string.find(member, id, 1, true) or string.find(member, hex, 1, true)) then
    matches[#matches + 1] = {page[i + 1], #member, string.sub(member, 1, tonumber(ARGV[6]))}
  end
end
return {cursor, redis.call('ZCARD', KEYS[1]), #page / 2, largest, matches}
