-- dedupe: one of two copies of a message goes.
--
-- Guarantee: it goes only if both stand where they were seen, at one moment; a message on its way from one place to
--   the other is never taken for two. Without ARGV 1 it only looks.
-- KEYS  1 where the one is that stays  2 where the one is that goes  3 events  4 stats
-- ARGV  1 '1' to do it, '' to look  2 who  3 id (hex)
--       4 the one that stays  5 its place in a list, from the left ('' in a sorted set)  6, 7 the same of the other
--       8 a word about it for the ledger
-- Returns 1 both are there (and the other is gone) | 0 they are not, or no longer
-- Cost  O(log of a sorted set, or 2,000 elements or 256 kB of a list, and the way to them)
local stays = stands(KEYS[1], ARGV[4], ARGV[5])
local place = stays and stands(KEYS[2], ARGV[6], ARGV[7], KEYS[1] == KEYS[2] and stays or nil)
if not place then
  return 0
end
if ARGV[1] == '1' then
  redis.call('HDEL', KEYS[4], '') -- allowed when out of memory, and so is all that follows
  remove(KEYS[2], ARGV[6], place)
  redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', '10000', '*', 'event', 'dedupe', 'id', ARGV[3],
    'consumer', ARGV[2], 'detail', ARGV[8])
  redis.pcall('HINCRBY', KEYS[4], 'dedupe', 1)
end
return 1
