-- recall: what the ledger tells of one message, and when the server has forgotten things.
--
-- Guarantee: it only reads; a ledger of the wrong type tells nothing, and stops nobody.
-- KEYS  1 events
-- ARGV  1 id (hex)  2 after which entry (0-0: from the first)  3 most entries to look at
-- Returns {the oldest entry of all, the last one looked at ('' if there was none), how many,
--   {entry, event, consumer, detail}, ...}
-- Cost  O(ARGV 3)
local page = redis.pcall('XRANGE', KEYS[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3])
if page.err then
  return {'', '', 0}
end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local found = {oldest and oldest[1] or '', #page > 0 and page[#page][1] or '', #page}
for _, entry in ipairs(page) do
  local field, told = {}, entry[2]
  for i = 1, #told, 2 do
    field[told[i]] = told[i + 1]
  end
  -- A reap names all that it brought back; a rollback may be about any message.
  if field.event == 'rollback' or (field.id and string.find(field.id, ARGV[1], 1, true)) then
    found[#found + 1] = {entry[1], field.event or '', field.consumer or '', field.detail or ''}
  end
end
return found
