-- Shared by the scripts by which messages end: what one was unique by is free, and the next one has its turn. (With
-- envelope.lua and lanes.lua before it.)

-- The id and the key of a message that holds one until its end or its start, as its meta tells.
local function unique_of(e)
  local meta = meta_of(e)
  local found = meta and meta.u
  if type(found) == 'table' and type(found[1]) == 'string' then
    return to_hex(e, 24), found[1]
  end
end

-- Only what is its own; nothing may fail here, since the message has gone by now.
local function free(e, uniques, lanes)
  lanes.pass(e)
  local id, key = unique_of(e)
  if not id then
    return
  end
  if redis.pcall('HGET', uniques, '+' .. key) == id then
    redis.pcall('HDEL', uniques, '+' .. key)
  end
  redis.pcall('HDEL', uniques, '-' .. id)
end
