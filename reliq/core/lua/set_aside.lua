-- set_aside: a key of the queue that holds something else gets another name, so that the queue can work.
--
-- Guarantee: nothing is lost, and nothing overwritten; a key of the right type stays. Without ARGV 1 it only looks.
-- KEYS  1 key  2 its new name  3 events
-- ARGV  1 '1' to do it, '' to look  2 who  3 the type that it should have
-- Returns 1 it is of another type (and has the new name) | 0 it is not, or the new name is taken
-- Cost  O(1)
local found = redis.call('TYPE', KEYS[1]).ok
if found == 'none' or found == ARGV[3] or redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
if ARGV[1] == '1' then
  redis.call('RENAME', KEYS[1], KEYS[2]) -- allowed when out of memory
  redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', '10000', '*', 'event', 'set aside', 'id', '',
    'consumer', ARGV[2], 'detail', found .. ' ' .. KEYS[1])
end
return 1
