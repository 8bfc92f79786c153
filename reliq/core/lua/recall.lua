-- recall: what the ledger tells of one message.
--
-- Guarantee: it only reads; a ledger of the wrong type tells nothing, and stops nobody.
-- KEYS  1 events
-- ARGV  1 id (hex)  2 after which entry ('-': from the first)  3 most entries to look at
-- Returns {the last entry looked at ('' if there was none), how many, {entry, event, consumer, detail}, ...}
-- Cost  O(ARGV 3)
local from = ARGV[2] == '-' and '-' or '(' .. ARGV[2]
local page = redis.pcall('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3])
if page.err then
  return {'', 0}
end
local found = {#page > 0 and page[#page][1] or '', #page}
for _, entry in ipairs(page) do
  local field, told = {}, entry[2]
  for i = 1, #told, 2 do
    field[told[i]] = told[i + 1]
  end
  if field.id == ARGV[1] then
    found[#found + 1] = {entry[1], field.event or '', field.consumer or '', field.detail or ''}
  end
end
return found
