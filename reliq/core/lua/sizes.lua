-- sizes: how many messages are in each state, at one moment.
--
-- KEYS  1 ready  2 later  3 dead  4 consumers  5.. inboxes and processing lists of the consumers
-- ARGV  none
-- Returns {ready, later, dead, in hands (inboxes and processing lists), registered consumers}
-- Cost  O(keys)
local ready = redis.call('LLEN', KEYS[1])
if redis.call('LINDEX', KEYS[1], -1) == '\193rlq\0' then
  ready = ready - 1 -- a bell (put.lua) is no message
end
local in_hands = 0
for i = 5, #KEYS do
  in_hands = in_hands + redis.call('LLEN', KEYS[i])
end
return {
  ready, redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]), in_hands, redis.call('ZCARD', KEYS[4]),
}
