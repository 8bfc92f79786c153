-- sweep_producers: forget the sequences of producers that have been idle for the whole dedupe window.
--
-- Guarantee: which producer was idle is seen by two sweeps: one notes the time beside the sequence, which the next put
--   writes over. So a put need not ask for the time, and none is forgotten too early.
-- KEYS  1 producers
-- ARGV  1 so many, at random  2 dedupe window, ms
-- Returns how many were new to it, or forgotten
-- Cost  O(ARGV 1)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local page, touched = redis.call('HRANDFIELD', KEYS[1], ARGV[1], 'WITHVALUES'), 0
redis.call('HDEL', KEYS[1], '') -- allowed when out of memory; so is what follows
for i = 1, #page, 2 do
  local since = tonumber(string.match(page[i + 1], ':(%d+)$'))
  if page[i] == ':closed' then -- no producer: the queue takes no puts (gate.lua)
    since = now
  end
  if not since then
    redis.call('HSET', KEYS[1], page[i], page[i + 1] .. ':' .. now)
    touched = touched + 1
  elseif now - since > tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], page[i])
    touched = touched + 1
  end
end
return touched
