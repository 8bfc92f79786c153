-- cancel: a message that waits is taken out, and never handed to a handler (again).
--
-- Guarantee: exactly these bytes go, and only if they wait where they were seen; what was claimed, promoted or put
--   elsewhere meanwhile stays as it is. With it goes its body, if that lies beside the list, and what is unique
--   by it; who waits for its result is told.
--   Works when Redis is out of memory.
-- KEYS  1 where it waits: a list or a sorted set  2 events  3 stats  4 consumers  5 lock  6 uniques  7 lanes  8 ready
--       9 later  10 what the keys of results begin with  then its body, if it has one
-- ARGV  1 the element  2 its place in a list, from the left ('' in a sorted set)  3 id (hex)
--       4 who cancels it  5 a word about that  6 '1' if the list is ready
-- Returns 1 it is cancelled | 0 it does not wait there: nothing changed
--   | 2 it is in the batch of who holds the queue for himself alone: nothing changed
-- Cost  O(log of a sorted set, or 2,000 elements or 256 kB of a list, and the way to them)
local place = stands(KEYS[1], ARGV[1], ARGV[2])
if not place then
  return 0
end
if ARGV[6] == '1' and in_batch(KEYS[1], place, KEYS[3], KEYS[4], KEYS[5]) then
  return 2
end
redis.call('HDEL', KEYS[3], '') -- allowed when out of memory, and so is all that follows
local lanes = turns(unpack(KEYS, 6, 9))
if place == true then
  lanes.unpark(ARGV[1], redis.call('ZSCORE', KEYS[1], ARGV[1]))
end
remove(KEYS[1], ARGV[1], place)
if KEYS[11] then
  redis.call('UNLINK', KEYS[11])
end
free(ARGV[1], KEYS[6], lanes)
tell(KEYS[10], ARGV[1], called_off(ARGV[3], {ARGV[4], ARGV[5]}))
redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', '10000', '*', 'event', 'cancel', 'id', ARGV[3],
  'consumer', ARGV[4], 'detail', ARGV[5])
redis.pcall('HINCRBY', KEYS[3], 'cancel', 1)
return 1
