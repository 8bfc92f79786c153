-- call_off: a message in a consumer's hands is to be cancelled. Its next trip tells the consumer; and whatever becomes
-- of it then (its handler fails, gives it back, dies), it is not handed out again. If its handler returns, it is done.
--
-- Guarantee: marked only if these bytes are in the processing list at that moment, which they leave only by a trip or a
--   reap, and both end what is marked. Repeating it changes nothing. A body beside the list ends by itself then, as who
--   ends the message may not know of it. Works when Redis is out of memory.
-- KEYS  1 doing  2 session  3 events  then its body, if it has one
-- ARGV  1 the element  2 id (hex)  3 who cancels it  4 a word about that  5 how long the body stays at most, ms
-- Returns 1 it is marked | 0 it is not in these hands: nothing changed
-- Cost  O(in hand)
local text = redis.call('HGET', KEYS[2], 'cancel')
if not redis.call('LPOS', KEYS[1], ARGV[1]) then
  return 0
end
local marks = marks_of(text) or {}
redis.call('HDEL', KEYS[2], '') -- allowed when out of memory, and so is all that follows
if not marks[ARGV[2]] then
  marks[ARGV[2]] = {ARGV[3], ARGV[4]}
  keep_marks(KEYS[2], marks)
  redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', '10000', '*', 'event', 'call off', 'id', ARGV[2],
    'consumer', ARGV[3], 'detail', ARGV[4])
end
if KEYS[4] then
  redis.call('PEXPIRE', KEYS[4], ARGV[5])
end
return 1
