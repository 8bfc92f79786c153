-- revive: dead letters are messages again, behind what waits in ready; the first one named is claimed first.
--
-- Guarantee: a letter is revived once, whoever asks and however often: only what stands in dead moves, and should
--   the message die again it is another member, with a larger fence. It has all of its attempts before it. One that
--   workers died with stays a suspect with one loss, so that it is handed out alone. Elements of another version, and
--   raw ones, go back as they are. What its death has told whoever waited for its result is not told
--   any more. A marker stands for the window, so that an import of its export adds no copy.
-- KEYS  1 ready  2 dead  3 events  4 stats  5 what the keys of results begin with
--       6.. markers, one for each letter
-- ARGV  1 who  2 dedupe window, ms
--       3.. letters of four words each: member, where in it the element begins (from 1), id (hex), cause
-- Returns {1 revived | 0 it is not among the dead, ...}: one for each letter
-- Cost  O(letters * log dead); at most 100 or 256 kB a call, one larger letter goes alone
local READY, DEAD, EVENTS, STATS, RESULTS = unpack(KEYS)
redis.call('LLEN', READY)
redis.call('ZCARD', DEAD)
for i = 3, #ARGV, 4 do
  local start = tonumber(ARGV[i + 1])
  if not start or start < 1 or start > #ARGV[i] + 1 then
    return redis.error_reply('ERR no element begins at ' .. ARGV[i + 1])
  end
end
redis.call('ZREM', DEAD, BELL) -- never a letter; allowed when out of memory, and so is all that follows

local function anew(e)
  if not whole(e) or string.byte(e, 5) ~= 1 then
    return e
  end
  local returns = math.min(struct.unpack('>I4', string.sub(e, 14, 17)) + 1, 4294967295)
  local suspect = math.min(lost_count(e), 1)
  return string.sub(e, 1, 13) .. struct.pack('>I4I2I2B', returns, 0, 0, suspect) .. string.sub(e, 23)
end

local done, count = {}, 0
for i = 3, #ARGV, 4 do
  local member, revived = ARGV[i], 0
  if redis.call('ZSCORE', DEAD, member) then
    local back = anew(string.sub(member, tonumber(ARGV[i + 1])))
    redis.call('LPUSH', READY, back)
    redis.call('ZREM', DEAD, member)
    redis.pcall('DEL', RESULTS .. ARGV[i + 2])
    redis.call('SET', KEYS[6 + #done], '1', 'PX', ARGV[2])
    redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', 'revive', 'id', ARGV[i + 2],
      'consumer', ARGV[1], 'detail', ARGV[i + 3])
    revived, count = 1, count + 1
  end
  done[#done + 1] = revived
end
if count > 0 then
  redis.pcall('HINCRBY', STATS, 'revive', count)
end
return done
