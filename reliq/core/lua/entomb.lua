-- entomb: what cannot be read, or whose body is gone, is made a dead letter, where nobody claims it in vain.
--
-- Guarantee: it is among the dead before it leaves its place, whole, so that it can be revived; it moves only if it
--   still stands there. Without ARGV 1 it only looks.
-- KEYS  1 where it is  2 dead  3 events  4 stats  5 uniques  6 lanes  7 ready  8 later
--       9 what the keys of results begin with
--       10 where its body should be, if that is what is wrong: nothing happens if it is there
-- ARGV  1 '1' to do it, '' to look  2 who  3 id (hex)  4 cause
--       5 the element  6 its place in a list, from the left ('' in a sorted set)  7 member for dead
-- Returns 1 it is there (and now a dead letter) | 0 it is not, or no longer
-- Cost  O(log of a sorted set, or 2,000 elements or 256 kB of a list, and the way to them)
local DEAD = KEYS[2]
redis.call('ZCARD', DEAD)
local place = stands(KEYS[1], ARGV[5], ARGV[6])
if not place or KEYS[10] and redis.call('TYPE', KEYS[10]).ok == 'string' then
  return 0
end
if ARGV[1] == '1' then
  local t = redis.call('TIME')
  redis.call('HDEL', KEYS[4], '') -- allowed when out of memory, and so is all that follows
  redis.call('ZADD', DEAD, t[1] * 1000 + math.floor(t[2] / 1000), ARGV[7])
  remove(KEYS[1], ARGV[5], place)
  free(ARGV[5], KEYS[5], turns(unpack(KEYS, 5, 8)))
  tell(KEYS[9], ARGV[5], ARGV[7])
  redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', '10000', '*', 'event', 'bury', 'id', ARGV[3],
    'consumer', ARGV[2], 'detail', ARGV[4])
  redis.pcall('HINCRBY', KEYS[4], 'bury', 1)
end
return 1
