-- vacate: a tenant gets back a place that was taken by a message which nobody has in hand, and its turn.
--
-- Guarantee: nothing moves. Works when Redis is out of memory.
-- KEYS  1 uniques  2 lanes  3 later  4 turns
-- ARGV  1 the tenant  2 id (hex) of the message ('' none: only its turn is looked at)
-- Returns 1 done | 0 there was nothing to do
-- Cost  O(log later)
local tenants = shares(KEYS[1], KEYS[2], KEYS[3], KEYS[4], '- - -')
redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[3])
redis.call('ZCARD', KEYS[4])
redis.call('HDEL', KEYS[1], '') -- allowed when out of memory, and so is all that follows
local done = ARGV[2] == '' and tenants.come_again(ARGV[1]) or ARGV[2] ~= '' and tenants.vacate(ARGV[2])
if done == 1 then
  return 1
end
return 0
