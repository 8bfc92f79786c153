-- vacate: a tenant gets back a place that was taken by a message which nobody has in hand, and its turn.
--
-- Guarantee: nothing moves. Works when Redis is out of memory.
-- KEYS  1 uniques  2 lanes  3 later  4 turns
-- ARGV  1 id (hex) of the message
-- Returns 1 done | 0 there was nothing to do
-- Cost  O(log later)
local tenants = shares(KEYS[1], KEYS[2], KEYS[3], KEYS[4], '- - -')
redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[3])
redis.call('ZCARD', KEYS[4])
redis.call('HDEL', KEYS[1], '') -- allowed when out of memory, and so is all that follows
if tenants.vacate(ARGV[1]) == 1 then
  return 1
end
return 0
