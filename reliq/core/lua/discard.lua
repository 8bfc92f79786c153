-- discard: dead letters are removed for good.
--
-- Guarantee: exactly these members go, no other letter of the same message. With each goes its body, if that lies
--   beside the list, and the marker of its import, so that an export of it can be imported again.
-- KEYS  1 dead  2 events  3 stats  4.. markers, one for each letter  then the bodies that the letters name
-- ARGV  1 who  2.. letters of four words each: member, id (hex), cause, key of its body or ''
-- Returns {1 removed | 0 it is not among the dead, ...}: one for each letter
-- Cost  O(letters * log dead); at most 100 or 256 kB a call, one larger letter goes alone
local DEAD, EVENTS, STATS = unpack(KEYS)
local done, count = {}, 0
for i = 2, #ARGV, 4 do
  local removed = redis.call('ZREM', DEAD, ARGV[i])
  if removed == 1 then
    redis.call('DEL', KEYS[4 + #done])
    if ARGV[i + 3] ~= '' then
      redis.call('UNLINK', ARGV[i + 3])
    end
    redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', 'discard', 'id', ARGV[i + 1],
      'consumer', ARGV[1], 'detail', ARGV[i + 2])
    count = count + 1
  end
  done[#done + 1] = removed
end
if count > 0 then
  redis.pcall('HINCRBY', STATS, 'discard', count)
end
return done
