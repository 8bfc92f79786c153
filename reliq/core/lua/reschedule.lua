-- reschedule: a message that waits, in ready or in later, becomes due at another time.
--
-- Guarantee: exactly these bytes move, and only if they wait where they were seen; the destination is written first.
--   It counts as a return, as every way back does, although no handler had it: a copy of this call that comes late,
--   after another one has moved the message again, would else find the very bytes that it looks for, and undo that.
--   The fence grows by it, which it may (I3: it only grows), and no claim is taken for another: nobody has it in hand.
--   Nor does it become one with an equal one that is in later. What is ready and due stays in its place. Works when
--   Redis is out of memory.
-- KEYS  1 where it waits: a list or a sorted set  2 events  3 stats  4 consumers  5 lock  6 ready  7 later  8 lanes
-- ARGV  1 the element  2 its place in a list, from the left ('' in a sorted set)  3 id (hex)
--       4 who does so  5 'in' | 'at'  6 ms from now, or Unix ms
-- Returns 1 it is due then | 0 it does not wait there: nothing changed
--   | 2 it is in the batch of who holds the queue for himself alone: nothing changed
-- Cost  O(log later, and 2,000 elements or 256 kB of a list, and the way to them)
local FROM, EVENTS, STATS, CONSUMERS, LOCK, READY, LATER, LANES = unpack(KEYS)
local element = ARGV[1]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local due = tonumber(ARGV[6]) + (ARGV[5] == 'in' and now or 0)
local place = stands(FROM, element, ARGV[2])
if not place then
  return 0
end
if FROM == READY and in_batch(FROM, place, STATS, CONSUMERS, LOCK) then
  return 2
end
if place ~= true and due <= now then
  return 1
end
local head = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')
local live = redis.call('ZCOUNT', CONSUMERS, '(' .. now, '+inf')
redis.call('LLEN', READY)

local back = element
if whole(element) and byte(element, 5) == 1 then
  repeat
    back = bump(back)
  until not redis.call('ZSCORE', LATER, back) or read('>I4', back, 14) == 4294967295
elseif place ~= true and redis.call('ZSCORE', LATER, back) then
  return 0
end
redis.call('HDEL', STATS, '') -- allowed when out of memory, and so is all that follows
if place == true then -- it leaves its lane, if it waits in one
  turns('', LANES, READY, LATER).unpark(element, redis.call('ZSCORE', FROM, element))
end
redis.call('ZADD', LATER, due, back)
if back ~= element or place ~= true then
  remove(FROM, element, place)
end
redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', 'reschedule', 'id', ARGV[3],
  'consumer', ARGV[4], 'detail', string.format('%.0f', due))
redis.pcall('HINCRBY', STATS, 'reschedule', 1)
-- Idle consumers sleep until what was due first. If this is due sooner, one of them must know.
if (not head[2] or due < tonumber(head[2])) and live > 0 and redis.call('LLEN', READY) == 0 then
  redis.call('LPUSH', READY, BELL)
end
return 1
