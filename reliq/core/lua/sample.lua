-- sample: write down how far the queue has come, so that a rate can be told later; and let go what is too old in the
-- ledger. Some consumer does so every half minute.
--
-- Guarantee: the last sample and the one before it are at least ARGV 1 apart. It moves no message.
-- KEYS  1 ready  2 events  3 stats  4 traces
-- ARGV  1 least time between two samples, ms  2 how long the ledger is kept, ms  3 messages in the queue
-- Returns 1 sampled | 0 the last sample is too young
-- Cost  O(log events)
local READY, EVENTS, STATS = unpack(KEYS)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local head = redis.call('LINDEX', READY, -1)
local last = redis.call('HMGET', STATS, 'sampled', 'ack', 'retry', 'bury', 'reap', 'discard', 'restore', 'cancel',
  'purge')
for _, stream in ipairs({EVENTS, KEYS[4]}) do
  redis.pcall('XTRIM', stream, 'MINID', '~', now - tonumber(ARGV[2])) -- allowed when out of memory; so is what follows
end
local before = last[1] and string.match(last[1], '^(%d+) ')
if before and now - tonumber(before) < tonumber(ARGV[1]) then
  return 0
end
if head == BELL then
  head = redis.call('LINDEX', READY, -2)
end
local id = head and (whole(head) and to_hex(string.sub(head, 24, 39)) or redis.sha1hex(head)) or ''
local words = {now, last[2] or '0', last[3] or '0', last[4] or '0', last[5] or '0', id, ARGV[3]}
words[8], words[9] = (tonumber(last[6]) or 0) + (tonumber(last[8]) or 0) + (tonumber(last[9]) or 0), last[7] or '0'
redis.call('HSET', STATS, 'sampled_before', last[1] or '', 'sampled', table.concat(words, ' '))
return 1
