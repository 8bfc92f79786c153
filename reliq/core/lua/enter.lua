-- enter: a handler is about to begin with a message that has an idempotency key.
--
-- Guarantee: of the messages with one key one is in a handler's hands at a time: it has the key for as long as it
--   stands in the processing list of its consumer, which it leaves by whatever ends or returns it. A key that is done
--   (by 'mark' of the trip with its ack) stays so for its time, and no handler begins with it. To ask again changes
--   nothing. Works when Redis is out of memory.
-- KEYS  1 marker of the key  2 doing of the consumer  3 what the processing lists' names begin with  4 events
-- ARGV  1 consumer  2 the element  3 id (hex)  4 ms that the marker stays, if it is never done
-- Returns 1 the handler may begin | {'done', id, answer}: by that one, which has left this answer
--   | {'busy', id, ''}: that one has it in hand | {'lost', '', ''}: the message is not in these hands any more
-- Cost  O(in hand)
local MARKER, DOING, LISTS, EVENTS = unpack(KEYS)
local name, element, id = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('GET', MARKER)
if not redis.call('LPOS', DOING, element) then
  return {'lost', '', ''}
end
local kind, other = string.sub(found or '', 1, 1), string.sub(found or '', 2, 33)
if kind == 'd' then
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', 'repeat', 'id', id,
    'consumer', name, 'detail', other)
  return {'done', other, string.sub(found, 34)}
end
if kind == 'p' then
  local consumer, held = string.match(found, '^(.-)\n(.*)$', 34)
  local asks_again = consumer == name and held == element
  if consumer and not asks_again and redis.call('LPOS', LISTS .. consumer, held) then
    return {'busy', other, ''}
  end
end
redis.call('DEL', MARKER) -- allowed when out of memory, and so is what follows
redis.call('SET', MARKER, 'p' .. id .. name .. '\n' .. element, 'PX', ARGV[4])
return 1
