-- register: write a queue into the index of its prefix, so that commands find it and know its settings.
--
-- Guarantee: the newest schema of its keys that anybody has written stays there. An entry of a later major version is
--   left as it is: whoever registers learns of it, and keeps away.
-- KEYS  1 queues (HASH queue -> JSON)
-- ARGV  1 queue  2 its record: JSON without the last brace  3 major  4 minor version of the schema of who registers
-- Returns {major, minor}: the schema that stands there now
-- Cost  O(1)
local old = redis.call('HGET', KEYS[1], ARGV[1])
local major, minor = tonumber(ARGV[3]), tonumber(ARGV[4])
local theirs, detail = string.match(old or '', '"schema"%s*:%s*"(%d+)%.(%d+)"')
theirs, detail = tonumber(theirs), tonumber(detail)
if theirs and theirs > major then
  return {theirs, detail}
end
if theirs == major and detail > minor then
  minor = detail
end
local record = ARGV[2] .. ', "schema": "' .. major .. '.' .. minor .. '"}'
if record ~= old then -- else a full memory would refuse what is there already
  redis.call('HSET', KEYS[1], ARGV[1], record)
end
return {major, minor}
