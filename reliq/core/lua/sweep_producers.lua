-- sweep_producers: forget the sequences of producers that have been idle for the whole dedupe window.
--
-- KEYS  1 producers
-- ARGV  1 cursor  2 about so many a call  3 dedupe window, ms
-- Returns {next cursor, forgotten}
-- Cost  O(ARGV 2)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local page, gone = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), 0
for i = 1, #page[2], 2 do
  local at = tonumber(string.match(page[2][i + 1], ':(%d+)$') or '0')
  if now - at > tonumber(ARGV[3]) + 1000 then -- a record tells the second, not the ms
    redis.call('HDEL', KEYS[1], page[2][i])
    gone = gone + 1
  end
end
return {page[1], gone}
