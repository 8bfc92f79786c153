-- answer: a consumer says that it has done what it was ordered to, and how it is. The order is gone then.
--
-- Guarantee: never writes into the record of a name that is dead or has left. An order that came meanwhile stays.
-- KEYS  1 consumers  2 session
-- ARGV  1 consumer  2 number of the order  3 how it is  4 '1' if it claims no more
-- Returns 1 answered | 0 it is dead or gone: nothing changed
-- Cost  O(log consumers)
local record = redis.call('HMGET', KEYS[2], 'dead', 'leaving', 'order')
if record[1] or record[2] or not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
redis.call('ZREM', KEYS[1], '') -- allowed when out of memory; so is what follows
if string.match(record[3] or '', '^%S+') == ARGV[2] then
  redis.call('HDEL', KEYS[2], 'order')
end
redis.call('HSET', KEYS[2], 'answered', ARGV[2], 'report', ARGV[3])
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[2], 'quiet', '1')
end
return 1
