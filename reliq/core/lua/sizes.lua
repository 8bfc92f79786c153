-- sizes: how many messages are in each state, at one moment.
--
-- KEYS  1 ready  2 later  3 dead  4 consumers  5.. of each consumer its inbox and its processing list
-- ARGV  none
-- Returns {ready (with what waits for the turn of its tenant, which stands in later: shares.lua), later, dead,
--   in hands (inboxes and processing lists), registered consumers}
-- Cost  O(keys + 1,000)

-- A bell (put.lua) is no message. It is rung in an empty list, so only what has gone back stands before it.
local function messages(list)
  return redis.call('LLEN', list) - #redis.call('LPOS', list, '\193rlq\0', 'RANK', -1, 'COUNT', 0, 'MAXLEN', 1000)
end

local in_hands = 0
for i = 5, #KEYS, 2 do
  in_hands = in_hands + messages(KEYS[i]) + redis.call('LLEN', KEYS[i + 1])
end
local shared = redis.call('ZCOUNT', KEYS[2], 6000000000000000, '(8000000000000000')
return {
  messages(KEYS[1]) + shared, redis.call('ZCARD', KEYS[2]) - shared, redis.call('ZCARD', KEYS[3]), in_hands,
  redis.call('ZCARD', KEYS[4]),
}
