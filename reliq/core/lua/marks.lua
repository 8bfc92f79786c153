-- Shared by the scripts that meet messages in hand which somebody has cancelled (call_off.lua). They are marked in the
-- record of the consumer that holds them: a line for each, with its id (hex), who, and a word about that. A message
-- leaves a consumer's hands only by its own trip or by a reap, and both look there.

-- The marks by id: {who, word}; nil if there are none.
local function marks_of(text)
  local marks = nil
  for id, who, word in string.gmatch(text or '', '(%x+) (%S+) ([^\n]*)') do
    marks = marks or {}
    marks[id] = {who, word}
  end
  return marks
end

-- Write down what is left of them; returns their ids with spaces between, or nil.
local function keep_marks(session, marks)
  local lines, ids = {}, {}
  for id, by in pairs(marks) do
    lines[#lines + 1] = id .. ' ' .. by[1] .. ' ' .. by[2]
    ids[#ids + 1] = id
  end
  if #ids == 0 then
    redis.call('HDEL', session, 'cancel')
    return nil
  end
  redis.call('HSET', session, 'cancel', table.concat(lines, '\n'))
  return table.concat(ids, ' ')
end

-- A marked message has ended.
local function note_cancel(events, id, by)
  redis.pcall('XADD', events, 'MAXLEN', '~', '10000', '*', 'event', 'cancel', 'id', id, 'consumer', by[1],
    'detail', by[2])
end
