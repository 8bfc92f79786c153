-- restore: dead letters come in from an export, byte by byte as they were.
--
-- Guarantee: a repeat within the window adds nothing, even if the letter was revived in between; what is in dead
--   already is not added either, nor one whose body is here: then its message is. A body that lies beside the list
--   comes in with its letter. Refused under out-of-memory before anything is written.
-- KEYS  1 dead  2 events  3 stats  4.. markers, one for each letter  then the bodies that the letters name
-- ARGV  1 who  2 dedupe window, ms
--       3.. letters of six words each: member, time of death (server ms), id (hex), cause, key of its body or '',
--       that body ('': the export has none)
-- Returns {1 restored | 0 it is, or was, here already, ...}: one for each letter
-- Cost  O(letters * log dead); at most 100 or 256 kB a call, one larger letter goes alone
local DEAD, EVENTS, STATS = unpack(KEYS)
redis.call('ZCARD', DEAD)
for i = 3, #ARGV, 6 do
  local at = tonumber(ARGV[i + 1])
  if not at or at ~= at then
    return redis.error_reply('ERR no time of death: ' .. ARGV[i + 1])
  end
end
local done, count = {}, 0
for i = 3, #ARGV, 6 do
  local marker, body, restored = KEYS[4 + #done], ARGV[i + 4], 0
  local is_here = redis.call('EXISTS', marker) == 1 or redis.call('ZSCORE', DEAD, ARGV[i])
    or body ~= '' and redis.call('EXISTS', body) == 1
  if not is_here then
    if ARGV[i + 5] ~= '' then
      redis.call('SET', body, ARGV[i + 5])
    end
    redis.call('ZADD', DEAD, ARGV[i + 1], ARGV[i])
    redis.call('SET', marker, '1', 'PX', ARGV[2])
    redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', 'restore', 'id', ARGV[i + 2],
      'consumer', ARGV[1], 'detail', ARGV[i + 3])
    restored, count = 1, count + 1
  end
  done[#done + 1] = restored
end
if count > 0 then
  redis.pcall('HINCRBY', STATS, 'restore', count)
end
return done
