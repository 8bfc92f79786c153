-- begin: unique messages are about to be handed over.
--
-- Guarantee: of one that was replaced (put.lua) the answer is no, for as long as it is there; of any other, what it
--   holds until its start is free afterwards. Again it changes nothing.
-- KEYS  1 uniques  2 events
-- ARGV  1 consumer  2.. messages of three words each: id (hex), key, 1 if it is held until the start
-- Returns {1 it may be handed over | 0 it was replaced, ...}: one for each message
-- Cost  O(messages), at most 1,000
local may = {}
redis.call('HDEL', KEYS[1], '') -- a wrong type fails here; allowed when out of memory, and so is what follows
for i = 2, #ARGV, 3 do
  local id, field = ARGV[i], '+' .. ARGV[i + 1]
  local by = redis.call('HGET', KEYS[1], '-' .. id)
  if by then
    redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', '10000', '*', 'event', 'replace', 'id', id, 'consumer', ARGV[1],
      'detail', by)
  elseif ARGV[i + 2] == '1' and redis.call('HGET', KEYS[1], field) == id then
    redis.call('HDEL', KEYS[1], field)
  end
  may[#may + 1] = by and 0 or 1
end
return may
