-- turn: the turn of an ordering key goes on, as whoever had it is nowhere.
--
-- Guarantee: only if it still has it. What waits is at the head of ready before it leaves later; nothing else moves.
--   Works when Redis is out of memory.
-- KEYS  1 uniques  2 lanes  3 ready  4 later
-- ARGV  1 the key  2 id (hex) of who has the turn ('' nobody)
-- Returns 1 the next one has it, and is ready | 2 nobody waits for it: it is free | 0 somebody else has it by now
-- Cost  O(log later), or up to 1,000 times that for those that are not there any more
if (redis.call('HGET', KEYS[1], '=' .. ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('LLEN', KEYS[3])
redis.call('ZCARD', KEYS[4])
redis.call('ZREM', KEYS[2], '') -- allowed when out of memory, and so is all that follows
if turns(unpack(KEYS, 1, 4)).call_next(ARGV[1]) == 1 then
  return 1
end
return 2
