-- reap: what a dead consumer held goes back to ready, oldest at the head, in the order it was claimed.
--
-- Guarantee: safe in any number at once and any number of times: it moves only what is there, and only if
--   the lease is over by the server's clock (or the caller saw the process die). Elements of the inbox
--   never reached a handler and count nothing. Undecodable elements go back as they are; nothing stops it.
--   A message that has now been lost as often as the limit says is dead-lettered as POISON. One that somebody has
--   cancelled meanwhile (marks.lua) is gone.
--   No lease counts as over before the server has been up (or primary) for one whole lease.
-- KEYS  1 ready  2 inbox  3 doing  4 consumers  5 session  6 dead  7 events  8 stats  9 uniques  10 lanes
--       11 later  12 what the keys of results begin with  13 turns
-- ARGV  1 consumer  2 'lease' | 'dead' (its process was seen to die: the name is marked, for good)
--       3 losses before POISON  4 lease of the caller, ms  5 server run id ('' if unknown)
--       6 most elements  7 most bytes  8 how long an empty registration stays, ms
--       9 '1' if the ids that follow (hex) are exactly the messages that handlers had in hand
-- Returns {'alive' | 'waiting' | 'adopted' | 'forgotten' | 'reaped', returned, buried, 1 if more is left}
--   adopted: lists without a registration were given one, with a lease from now
-- Cost  O(elements), at most as ARGV 6 and 7 say; newest first, so that a rest stays in order
local READY, INBOX, DOING, CONSUMERS, SESSION, DEAD, EVENTS, STATS, UNIQUES, LANES, LATER, RESULTS = unpack(KEYS, 1, 12)
local name, how, limit, budget = ARGV[1], ARGV[2], tonumber(ARGV[6]), tonumber(ARGV[7])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

redis.call('LLEN', READY)
redis.call('ZCARD', DEAD)
local in_inbox, in_doing = redis.call('LLEN', INBOX), redis.call('LLEN', DOING)
local score = redis.call('ZSCORE', CONSUMERS, name)
local record = redis.call('HMGET', SESSION, 'lease', 'cancel')
local lease, marks = tonumber(record[1] or ARGV[4]), marks_of(record[2])
local server = redis.call('HMGET', STATS, 'server', 'server_since', 'shared')
redis.call('ZREM', CONSUMERS, '') -- allowed when out of memory; from here on everything is

local function note(event, id, extra)
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', event, 'id', id, 'consumer', name, 'detail', extra)
end

if how == 'lease' then
  if score and tonumber(score) > now then
    return {'alive', 0, 0, 0}
  end
  if ARGV[5] ~= '' and ARGV[5] ~= server[1] then
    redis.call('HSET', STATS, 'server', ARGV[5], 'server_since', now)
    return {'waiting', 0, 0, 0}
  end
  if now - tonumber(server[2] or '0') < lease then
    return {'waiting', 0, 0, 0}
  end
  if not score then
    if in_inbox + in_doing == 0 then
      return {'alive', 0, 0, 0}
    end
    redis.call('ZADD', CONSUMERS, now + lease, name)
    note('adopt', '', in_inbox + in_doing .. ' held')
    return {'adopted', 0, 0, 0}
  end
  if in_inbox + in_doing == 0 and tonumber(score) < now - tonumber(ARGV[8]) then
    redis.call('ZREM', CONSUMERS, name)
    redis.call('DEL', SESSION)
    note('forget', '', '')
    return {'forgotten', 0, 0, 0}
  end
else
  if redis.call('HSET', SESSION, 'dead', now) == 1 then
    note('die', '', in_doing .. ' in hand')
  end
  if not score or tonumber(score) > now then
    redis.call('ZADD', CONSUMERS, now, name) -- visited by every sweep from now on
  end
end
if in_inbox + in_doing == 0 then
  return {'reaped', 0, 0, 0}
end

-- Now, as something will move: an error after the first move would leave it undone.
local epoch = redis.call('HINCRBY', SESSION, 'epoch', 1)

local returned, buried, cancelled, bytes = 0, 0, 0, 0
local tenants = server[3] and shares(UNIQUES, LANES, LATER, KEYS[13], server[3])

-- Take up to the limit from the right (newest) end of a list; give() says where each one goes, and before they are
-- gone from here, done() has them all there.
local function take(list, give, done)
  local seen, n = from_right(list, limit - returned, budget - bytes, string.len), 0
  for i = 1, #seen do
    if bytes > 0 and bytes + #seen[i] > budget then
      break
    end
    bytes = bytes + #seen[i]
    give(seen[i])
    n = i
  end
  done()
  redis.call('LTRIM', list, 0, -n - 1)
end

take(INBOX, function(element)
  if element ~= BELL then
    redis.call('RPUSH', READY, element)
    returned = returned + 1
  end
end, function() end)

if redis.call('LLEN', INBOX) == 0 and returned < limit then
  local exact, poison, started = ARGV[9] == '1', tonumber(ARGV[3]), {}
  for i = 10, #ARGV do
    started[ARGV[i]] = true
  end
  local going, lost, spared = {}, {}, {}
  local function go(element)
    going[#going + 1] = element
    returned = returned + 1
  end
  local lanes = turns(UNIQUES, LANES, READY, LATER)
  take(DOING, function(element)
    if tenants and #element > 39 then
      pcall(tenants.count_out, element)
    end
    local id = whole(element) and to_hex(element, 24)
    if marks and marks[id] then
      note_cancel(EVENTS, id, marks[id])
      free(element, UNIQUES, lanes)
      tell(RESULTS, element, called_off(id, marks[id]))
      marks[id], cancelled = nil, cancelled + 1
      return
    end
    if not id or byte(element, 5) ~= 1 then
      go(element)
      return
    end
    local was_lost = not exact or started[id] == true
    local back = bump(element, was_lost)
    if was_lost and lost_count(back) >= poison then
      local why = cmsgpack.pack({
        id = id, cause = 'POISON', at = now, worker = name,
        error = 'its worker died ' .. lost_count(back) .. ' times while handling it',
        n = epoch * 1000 + buried, -- equal members of a sorted set are one, equal messages are several
      })
      redis.call('ZADD', DEAD, now, why .. back)
      free(back, UNIQUES, lanes)
      tell(RESULTS, back, why)
      note('bury', id, 'POISON')
      buried = buried + 1
    else
      local ids = was_lost and lost or spared
      ids[#ids + 1] = id
      go(back)
    end
  end, function()
    if #going > 0 then
      redis.call('RPUSH', READY, unpack(going))
    end
    -- One entry for all of them: they would push everything else out of the ledger, and take longer than the rest.
    for detail, ids in pairs({lost = lost, ['not in hand'] = spared}) do
      if #ids > 0 then
        note('reap', table.concat(ids, ' '), detail)
      end
    end
  end)
end

if cancelled > 0 then
  keep_marks(SESSION, marks)
  redis.pcall('HINCRBY', STATS, 'cancel', cancelled)
end
if returned > 0 then
  redis.pcall('HINCRBY', STATS, 'reap', returned)
end
if buried > 0 then
  redis.pcall('HINCRBY', STATS, 'bury', buried)
end
if tenants and redis.call('LLEN', READY) == 0 then -- a place may be free, and somebody idle
  local fine, some = pcall(tenants.some)
  if fine and some > 0 then
    redis.call('LPUSH', READY, BELL)
  end
end
local left = redis.call('LLEN', INBOX) + redis.call('LLEN', DOING)
return {'reaped', returned, buried, left > 0 and 1 or 0}
