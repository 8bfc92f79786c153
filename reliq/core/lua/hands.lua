-- hands: what a consumer holds and how it is registered, at one moment.
--
-- Guarantee: it only reads.
-- KEYS  1 inbox  2 doing  3 consumers  4 stats
-- ARGV  1 consumer
-- Returns {server ms, end of its lease in server ms ('' if it is not registered), in its inbox, in its processing list,
--   run id of the server as last noted, since when (server ms), live consumers}
-- Cost  O(log consumers)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local server = redis.call('HMGET', KEYS[4], 'server', 'server_since')
return {
  now, redis.call('ZSCORE', KEYS[3], ARGV[1]) or '', redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2]),
  server[1] or '', server[2] or '0', redis.call('ZCOUNT', KEYS[3], '(' .. now, '+inf'),
}
