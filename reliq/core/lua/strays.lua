-- strays: one step of the search for the lists of consumers, registered or not. A script, so that a Redis Cluster
-- takes it where the queue is.
--
-- Guarantee: it only reads. No list is missed that is there all the while (SCAN promises that).
-- KEYS  1 ready
-- ARGV  1 cursor  2 pattern  3 about so many keys
-- Returns {next cursor (0: done), keys}
-- Cost  O(ARGV 3)
local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
return {found[1], found[2]}
