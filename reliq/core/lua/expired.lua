-- expired: the consumers whose lease is over, by the server's clock. A pass that finds none costs one call.
--
-- KEYS  1 consumers
-- ARGV  1 offset  2 at most so many  3 only leases that ended in the last so many ms ('' for all)
-- Returns {server ms, consumer, ...}
-- Cost  O(log consumers + returned)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local from = ARGV[3] == '' and '-inf' or now - tonumber(ARGV[3])
return {now, unpack(redis.call('ZRANGEBYSCORE', KEYS[1], from, now, 'LIMIT', ARGV[1], ARGV[2]))}
