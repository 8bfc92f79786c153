-- leave: a consumer says goodbye. What its BLMOVE brought and nobody saw goes back to the head.
--
-- Guarantee: the registration goes only if nothing is left in its lists and its BLMOVE has certainly ended;
--   otherwise the record stays, marked, and reapers go on visiting it. So does the mark of a dead name.
--   The mark outlives the registration by an hour: an old copy of a trip, of a connection that was lost, must
--   not look like the first one of a new consumer and claim messages for nobody.
-- KEYS  1 ready  2 inbox  3 doing  4 consumers  5 session  6 events
-- ARGV  1 consumer  2 '1' if no BLMOVE of it can be under way any more
-- Returns 1 gone | 0 stays registered until a reaper has seen to it
-- Cost  O(inbox), a few elements
redis.call('LLEN', KEYS[1])
local registered = redis.call('ZSCORE', KEYS[4], ARGV[1])
local dead = redis.call('HEXISTS', KEYS[5], 'dead') == 1
local left = redis.call('HEXISTS', KEYS[5], 'leaving') == 1
local in_hand = redis.call('LLEN', KEYS[3])
local inbox = redis.call('LRANGE', KEYS[2], 0, -1)
redis.call('LREM', KEYS[2], 1, '') -- allowed when out of memory; so is all that follows
for i = #inbox, 1, -1 do
  redis.call('RPUSH', KEYS[1], inbox[i])
end
redis.call('DEL', KEYS[2])
if registered and not left then -- else it was said before
  redis.pcall('XADD', KEYS[6], 'MAXLEN', '~', '10000', '*', 'event', 'stop', 'id', '', 'consumer', ARGV[1],
    'detail', in_hand > 0 and in_hand .. ' left in hand' or '')
end
if in_hand == 0 and ARGV[2] == '1' and not dead then
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('DEL', KEYS[5])
  redis.call('HSET', KEYS[5], 'leaving', '1')
  redis.call('PEXPIRE', KEYS[5], 3600000)
  return 1
end
redis.call('HSET', KEYS[5], 'leaving', '1')
return 0
