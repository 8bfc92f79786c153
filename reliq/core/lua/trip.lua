-- trip: the one round trip of a consumer. Settles what its handlers finished, promotes what is due,
-- claims for its free slots, renews its lease.
--
-- Guarantee: trips are numbered. The next number runs; the last number again changes nothing and returns
--   the same answer with the whole processing list; an older one changes nothing. A settle of an element
--   that is not in the processing list is late: refused and reported. Every read that could fail on a
--   wrong type stands before the first write, and the first write is one that Redis allows when it is
--   out of memory, which lets the rest through: a full Redis can be drained.
-- KEYS  1 ready  2 inbox  3 doing  4 consumers  5 session  6 later  7 dead  8 events  9 stats  10 uniques  11 lanes
--       12 turns  13 traces, if there are steps of traced messages; then the bodies, results and
--       reports of progress that are named below
-- ARGV  1 consumer  2 trip number  3 lease, ms  4 reap epoch as known ('' at first)  5 messages in hand
--       6 free slots  7 what to do with suspects (messages that a consumer died with):
--         'alone' take one only with empty hands | 'decline' pass over them | 'beside' take one beside others
--       8 most to promote, negative: messages of a group (groups.lua) are claimed together, also if that is more than
--         there are free slots  9 most bytes to claim  10 server run id, 11 who this is: both '' after the first
--       12 number of acks, then the acked elements; negative: they are the oldest in hand, in that order, and the first
--         and the last of them stand for all. Then settles of four words each:
--         'retry'   element, element that goes back, ms of delay
--         'release' element, element that goes back, ''   (newest first: they go to the head)
--         'unrouted' element, element that goes back, ms of delay and perhaps its type: no handler there takes it
--         'bury'    element, member for dead, cause
--         'trace'   id (hex), event, detail: a step of a traced message, which is no settle and not counted as one;
--                   that it was acked is not true if the ack is late
--         'drop'    id (hex), key of its body, '': goes with an ack, and is no settle either; not if the ack is late.
--                   Also with another settle of a message that is cancelled, if that ends it
--         'free'    id (hex), what it is unique by, '': likewise, with any settle, if that ends it
--         'keep'    id (hex), ms and key of its result, the answer: likewise; if it ends otherwise than by an ack, the
--                   answer says how
--         'mark'    id (hex), ms and key, what to set it to: goes with an ack; not if the ack is late
--         'report'  element, ms and key, progress: written down if it is in hand, and stays there
-- Returns {'ok' | 'again' | 'stale' | 'dead' | 'held' | 'spell' (nothing was done: the oldest in hand are others than
--     it seems, so all acks have to be spelled out), server ms, reap epoch, late settles (indexes from 0),
--   1 if elements is the whole processing list and not only what is new, 1 if suspects wait (or why nothing more
--   was claimed: -1 the queue is paused, less: minus so many ms, until which a limit stands in the way),
--   other live consumers (counted only if suspects wait, else -1), ms until something is due (-1: nothing),
--   a duty (1: reap recently ended leases, 2: visit all dead names and look for strays, 3: fire ticks), elements,
--   messages that are still ready (-1: none, but of some tenant that rests), number of the trip before as it is known
--   here; then an order (order.lua) and the ids (hex, spaces between) of messages in hand that are cancelled
--   (marks.lua), as far as there are any}
-- Cost  O(settled + promoted + claimed + in hand), each bounded by ~1,000 elements or 256 kB
local READY, INBOX, DOING, CONSUMERS, SESSION, LATER, DEAD, EVENTS, STATS, UNIQUES, LANES, TURNS = unpack(KEYS)
local name, trip, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local want, suspects_mode, budget = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[9])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local session = redis.call('HMGET', SESSION, 'trip', 'late', 'epoch', 'dead', 'leaving', 'order', 'cancel')
local last, epoch = tonumber(session[1] or '0'), session[3] or '0'
if session[4] or session[5] then -- declared dead, or it has said goodbye
  return {'dead', now, epoch, {}, 0, 0, -1, -1, 0, {}, 0, last}
end
if trip < last then
  return {'stale', now, epoch, {}, 0, 0, -1, -1, 0, {}, 0, last}
end

-- Reads that fail on a wrong type, before the first write.
local ready, before = redis.call('LLEN', READY), redis.call('LLEN', DOING)
local inbox = redis.call('LRANGE', INBOX, 0, -1)
local leases = redis.call('ZRANGEBYSCORE', CONSUMERS, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
redis.call('ZCARD', DEAD)
local server = redis.call('HMGET', STATS, 'server', 'sweep_at', 'full_sweep_at', 'exclusive', 'tick_at', 'gate',
  'ordered', 'shared', 'grouped')
if server[4] then -- somebody holds the queue for himself alone (seize.lua), which he could while we slept, or were not
  if last > 0 then
    return {'dead', now, epoch, {}, 0, 0, -1, -1, 0, {}, 0, last}
  end
  local left = tonumber(redis.call('ZSCORE', CONSUMERS, server[4]) or '0') - now
  return {'held', now, epoch, {}, 0, 0, -1, math.max(left, 0), 0, {server[4]}, 0, last}
end
-- Acks by their number, if both sides mean the same list: nobody has changed it since the last trip.
local acks, listed = tonumber(ARGV[12]), tonumber(ARGV[12])
local by_number = acks < 0
local moved, amiss = ARGV[4] ~= epoch, before ~= tonumber(ARGV[5])
if by_number then
  acks, listed = -acks, 2
  if trip > last and (moved or amiss or last < trip - 1 or redis.call('LINDEX', DOING, 0) ~= ARGV[13]
    or redis.call('LINDEX', DOING, acks - 1) ~= ARGV[14]) then
    return {'spell', now, epoch, {}, 0, 0, -1, -1, 0, {}, 0, last}
  end
end
local head = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')
local ordered = server[7] and redis.call('HLEN', UNIQUES) and redis.call('ZCARD', LANES)
  and turns(UNIQUES, LANES, READY, LATER)
local tenants = server[8] and redis.call('HLEN', UNIQUES) and redis.call('ZCARD', LANES)
  and redis.call('ZCARD', TURNS) and shares(UNIQUES, LANES, LATER, TURNS, server[8])
local gather = server[9] and redis.call('HLEN', UNIQUES) and redis.call('ZCARD', LANES) and redis.call('ZCARD', TURNS)
  and groups(UNIQUES, LANES, READY, LATER, TURNS)
local in_lanes = ordered or tenants or gather

redis.call('ZREM', LATER, '') -- allowed when out of memory; from here on everything is
redis.call('ZADD', CONSUMERS, now + lease, name)

if trip == last then
  local late = {}
  for index in string.gmatch(session[2] or '', '%d+') do
    late[#late + 1] = tonumber(index)
  end
  local held = redis.call('LRANGE', DOING, 0, -1)
  return {'again', now, epoch, late, 1, 0, -1, 0, 0, held, ready, last}
end

local function note(event, id, extra, stream)
  redis.pcall('XADD', stream or EVENTS, 'MAXLEN', '~', '10000', '*', 'event', event, 'id', id, 'consumer', name,
    'detail', extra)
end

local function id_of(element)
  return #element > 39 and to_hex(string.sub(element, 24, 39)) or ''
end

-- Messages of types that nobody handles may be many, and come back again and again: one entry a minute.
local function is_news(type)
  local at = string.match(redis.call('HGET', STATS, 'no_handler') or '', '^%d+')
  if at and now - tonumber(at) < 60000 then
    return false
  end
  redis.pcall('HSET', STATS, 'no_handler', now .. ' ' .. type)
  return true
end

if ARGV[10] ~= '' and ARGV[10] ~= server[1] then
  if server[1] then
    note('rollback', '', 'possible: another process, or another history, than before')
  end
  redis.call('HSET', STATS, 'server', ARGV[10], 'server_since', now)
end

if last < trip - 1 then -- it had the answers to those in between: they are forgotten
  note('rollback', '', 'trips ' .. last + 1 .. ' to ' .. trip - 1)
end

-- What BLMOVE brought goes back to the head, so that there is one way to claim and not two. Before what is released:
-- that was claimed earlier, and belongs in front of it.
if #inbox > 0 then
  for i = #inbox, 1, -1 do
    ready = redis.call('RPUSH', READY, inbox[i])
  end
  redis.call('DEL', INBOX)
end

-- Settle.
local late, refused, acked = {}, {}, {unpack(ARGV, 13, 12 + listed)}
local counts = {ack = 0, retry = 0, release = 0, bury = 0, unrouted = 0, cancel = 0}
local marks, stays = session[7] and marks_of(session[7]), {} -- stays: what has not ended, and what is left of it
local ends = {} -- what is told of those that end otherwise than by an ack
if by_number then
  acked = (marks or in_lanes) and redis.call('LRANGE', DOING, 0, acks - 1) or {}
  redis.call('LTRIM', DOING, acks, -1)
  counts.ack = acks
else
  for i = 1, acks do
    if redis.call('LREM', DOING, 1, acked[i]) == 1 then
      counts.ack = counts.ack + 1
    else
      late[#late + 1] = i - 1
      refused[id_of(acked[i])] = true
      note('late', id_of(acked[i]), 'ack')
    end
  end
end
if marks then
  for _, element in ipairs(acked) do
    local id = id_of(element)
    marks[id] = refused[id] and marks[id] or nil -- done is done
  end
end
local index = acks
for i = 13 + listed, #ARGV, 4 do
  local verb, element, back, extra = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if verb == 'trace' then
    if back ~= 'ack' or not refused[element] then
      note(back, element, extra, KEYS[13])
    end
    index = index - 1
  elseif verb == 'drop' then
    if not refused[element] and not stays[element] then
      redis.call('UNLINK', back)
    end
    index = index - 1
  elseif verb == 'keep' then
    if not refused[element] then
      local ms, key = string.match(back, '^(%d+) (.*)$')
      keep(key, ms, ends[element] and note_of(ends[element]) or extra)
    end
    index = index - 1
  elseif verb == 'mark' then
    if not refused[element] then
      local ms, key = string.match(back, '^(%d+) (.*)$')
      redis.pcall('SET', key, extra, 'PX', ms)
    end
    index = index - 1
  elseif verb == 'report' then
    if redis.call('LPOS', DOING, element) then
      local ms, key = string.match(back, '^(%d+) (.*)$')
      redis.pcall('SET', key, extra, 'PX', ms)
    end
    index = index - 1
  elseif verb == 'free' then
    if not refused[element] then -- by now nothing may fail
      if redis.pcall('HGET', UNIQUES, '+' .. back) == element then
        redis.pcall('HDEL', UNIQUES, '+' .. back)
      end
      redis.pcall('HDEL', UNIQUES, '-' .. element)
    end
    index = index - 1
  elseif redis.call('LPOS', DOING, element) then
    local by = marks and marks[id_of(element)]
    if by then
      verb, marks[id_of(element)] = 'cancel', nil
      ends[id_of(element)] = called_off(id_of(element), by)
      note_cancel(EVENTS, id_of(element), by)
    elseif verb == 'retry' or verb == 'unrouted' then
      -- An equal one may wait there already (some producer pushed an envelope twice), and a sorted set would make
      -- one of the two: then this one does not wait.
      local delay = tonumber(string.match(extra, '^%d+'))
      if redis.call('ZADD', LATER, 'NX', now + delay, back) == 0 then
        ready = redis.call('LPUSH', READY, back)
      end
    elseif verb == 'release' then
      ready = redis.call('RPUSH', READY, back)
    else
      redis.call('ZADD', DEAD, now, back)
      ends[id_of(element)] = back
    end
    redis.call('LREM', DOING, 1, element)
    counts[verb] = counts[verb] + 1
    if tenants then
      tenants.count_out(element)
    end
    if ordered and (by or verb == 'bury') then
      ready = ready + ordered.pass(element)
    end
    if not by then
      stays[id_of(element)] = true
      refused[id_of(element)] = verb ~= 'bury'
      if verb ~= 'unrouted' or is_news(string.match(extra, '^%d+ ?(.*)$')) then
        note(verb, id_of(element), extra)
      end
    end
  else
    late[#late + 1] = index
    refused[id_of(element)] = true
    note('late', id_of(element), verb)
  end
  index = index + 1
end
for _, element in ipairs(in_lanes and acked or {}) do
  if not refused[id_of(element)] then
    ready = ready + (ordered and ordered.pass(element) or 0)
    if tenants then
      tenants.count_out(element)
    end
  end
end
for verb, n in pairs(counts) do
  if n > 0 then
    redis.pcall('HINCRBY', STATS, verb, n)
  end
end

-- Promote what is due: pushed left, behind what waits already.
if head[2] and tonumber(head[2]) <= now or counts.retry + counts.unrouted > 0 then
  local left, bytes, step = math.abs(tonumber(ARGV[8])), 0, 1
  while left > 0 do
    local due = redis.call('ZRANGEBYSCORE', LATER, '-inf', now, 'LIMIT', 0, math.min(left, step))
    left = #due < step and 0 or left - #due
    for i = 1, #due do
      if bytes > 0 and bytes + #due[i] > budget then
        left = 0
        break
      end
      bytes = bytes + #due[i]
      local key = ordered and ordered.key_of(due[i])
      if key and not ordered.has(key, id_of(due[i])) then
        ordered.put_aside(key, due[i])
      else
        ready = redis.call('LPUSH', READY, due[i])
        redis.call('ZREM', LATER, due[i])
      end
    end
    step = 16
  end
  head = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')
end

if gather then
  ready = gather.go(now, 300, budget)
end

-- Claim from the right end, the oldest first.
local in_hand = before - counts.ack - counts.retry - counts.release - counts.bury - counts.unrouted - counts.cancel
local unknown = moved or amiss
if amiss or moved and ARGV[4] ~= '' then
  note('reconcile', '', before .. ' in hand, ' .. ARGV[5] .. ' known')
end
local claimed, declined, passed, suspects = {}, {}, 0, 0
local shut, tokens = 0, nil
local together, last_group = gather and tonumber(ARGV[8]) < 0, nil
local most_together = together and want > 0 and want + 300 or want
if server[6] then
  local wanted = want
  most_together, shut, tokens = admit(STATS, most_together, now, function()
    local lists, count = sub(DOING, 1, -#name - 1), 0
    for _, each in ipairs(redis.call('ZRANGE', CONSUMERS, 0, -1)) do
      count = count + redis.call('LLEN', lists .. each)
    end
    return count
  end)
  want = math.min(want, most_together)
  shut = (want < wanted or shut < 0) and shut or 0
end
local room, alone = want, false -- in ready: half of it is for tenants, if there are any
if tenants then
  tenants.wake(now)
  if tenants.some() > 0 then
    room = want > 1 and math.ceil(want / 2) or want * (trip % 2)
  end
end
if room > 0 and ready > 0 then
  local most = room + (in_lanes and 300 or suspects_mode == 'decline' and 100 or 0)
  local seen = from_right(READY, math.min(ready, most), budget, weight)
  -- Bells first: else a claim of one could come back empty while messages wait behind it. Where messages were
  -- cancelled there may be many, of which one trip drops some thousands.
  local left = 5
  while seen[1] == BELL and left > 0 do
    local found, bells = redis.call('LPOS', READY, BELL, 'RANK', -1, 'COUNT', 0, 'MAXLEN', 1000), 0
    while found[bells + 1] == ready - 1 - bells do
      bells = bells + 1
    end
    redis.call('LTRIM', READY, 0, -bells - 1)
    ready, left = ready - bells, left - 1
    seen = from_right(READY, math.min(ready, most), budget, weight)
  end
  for i = 1, #seen do
    local element = seen[i]
    local known = element ~= BELL and whole(element)
    local suspect = known and lost_count(element) > 0
    local key, tenant, group = nil, nil, nil
    if in_lanes and known then
      key, tenant = ordered and ordered.key_of(element), tenants and tenants.tenant_of(element)
      group = together and gather.of(element)
    end
    if element == BELL then
      passed = passed + 1
    elseif suspect and suspects_mode == 'decline' then
      declined[#declined + 1] = element
      passed = passed + 1
    elseif suspect and (#claimed > 0 or (in_hand > 0 and suspects_mode ~= 'beside')) then
      suspects = 1
      break
    elseif #claimed >= room and not (group and group == last_group and #claimed < most_together) then
      break
    elseif key and not ordered.has(key, id_of(element)) then
      if not ordered.park(key, element) then -- not before the one that is equal
        redis.call('LPUSH', READY, element)
        ready, shut = ready + 1, math.max(shut, 200)
      end
      passed = passed + 1
    elseif tenant and tenants.stands_back(tenant, now) ~= 0 then
      if not tenants.line_up(tenant, element, now) then
        redis.call('LPUSH', READY, element)
        ready, shut = ready + 1, math.max(shut, 200)
      end
      passed = passed + 1
    elseif not known and #element > 268435456 then
      -- An ack would have to send it back, which is near what the protocol can carry (512 MB): kept, unread.
      local wrapped = wrap(element, now, name .. ':' .. trip .. ':' .. i)
      local id = id_of(wrapped)
      local why = {id = id, cause = 'TOO_LARGE', worker = name, error = 'a raw body of ' .. #element .. ' bytes'}
      redis.call('ZADD', DEAD, now, cmsgpack.pack(why) .. wrapped)
      note('bury', id, 'TOO_LARGE')
      passed = passed + 1
    else
      claimed[#claimed + 1] = known and element or wrap(element, now, name .. ':' .. trip .. ':' .. i)
      passed = passed + 1
      last_group = group
      if tenant then
        tenants.count_in(tenant, id_of(element), now)
      end
      if suspect then
        alone = true
        break
      end
    end
  end
  if #claimed > 0 then
    redis.call('RPUSH', DOING, unpack(claimed))
  end
  if passed > 0 then
    redis.call('LTRIM', READY, 0, -passed - 1)
  end
  for i = #declined, 1, -1 do
    redis.call('RPUSH', READY, declined[i])
    suspects = 1
  end
  ready = ready - passed + #declined
end
if tenants then
  local bytes = 0
  for i = 1, #claimed do
    bytes = bytes + weight(claimed[i])
  end
  alone = alone or suspects == 1 and #declined == 0 -- or one waits for empty hands
  tenants.serve(alone and 0 or want - #claimed, now, function(element)
    local key = ordered and ordered.key_of(element)
    bytes = bytes + weight(element)
    if alone or #claimed > 0 and bytes > budget then
      return nil
    elseif lost_count(element) > 0 and (#claimed > 0 or in_hand > 0) then -- a suspect, for who has empty hands
      ready = redis.call('RPUSH', READY, element)
      return 'ready'
    elseif key and not ordered.has(key, id_of(element)) then
      ordered.put_aside(key, element)
      return 'moved'
    end
    redis.call('RPUSH', DOING, element)
    claimed[#claimed + 1], alone = element, lost_count(element) > 0
    return 'claimed'
  end)
  if tenants.some() > 0 then -- more to come, and perhaps somebody is idle
    ready = ready > 0 and ready or redis.call('LPUSH', READY, BELL)
  end
end
spend(STATS, #claimed, now, tokens)
if shut < 0 then
  suspects = -1
elseif shut > 0 and ready > 0 and suspects == 0 then -- else they are in the way
  suspects = -shut - 1
end

redis.call('HSET', SESSION, 'trip', trip, 'late', table.concat(late, ' '), 'epoch', epoch)
if ARGV[11] ~= '' then
  redis.call('HSET', SESSION, 'who', ARGV[11], 'lease', lease)
  if not session[1] then
    note('start', '', ARGV[11])
  end
end

-- When is a next trip worth making? At the next due time, or when the next lease of somebody ends.
local soonest = head[2] and tonumber(head[2])
soonest = soonest ~= nil and soonest < PARKED and soonest or nil
local rests = tenants and tonumber(tenants.rests_until())
if rests and (not soonest or rests < soonest) then
  soonest = rests
end
local group_at = gather and gather.next_at()
if group_at and (not soonest or group_at < soonest) then
  soonest = group_at
end
local ending = leases[1] == name and leases[4] or leases[1] ~= name and leases[2]
if ending and (not soonest or tonumber(ending) < soonest) then
  soonest = tonumber(ending) + 1
end
-- One consumer a second has the duty to reap leases that ended in the last minute, and every half minute
-- (and when a worker starts) to visit all dead names and to look for lists that nobody registered.
local sweep = 0
if ARGV[10] ~= '' or now >= tonumber(server[3] or '0') then
  redis.call('HSET', STATS, 'full_sweep_at', now + 30000)
  sweep = 2
elseif now >= tonumber(server[2] or '0') and redis.call('ZCOUNT', CONSUMERS, now - 60000, now) > 0 then
  redis.call('HSET', STATS, 'sweep_at', now + 1000)
  sweep = 1
end
-- Another one a second has the duty to fire ticks that are due, until that is done (fire.lua).
local tick_at = server[5] and tonumber(server[5])
if tick_at then
  if sweep == 0 and now >= tick_at then
    redis.call('HSET', STATS, 'tick_at', now + 1000)
    sweep, tick_at = 3, now + 1000
  end
  if not soonest or tick_at < soonest then
    soonest = tick_at
  end
end
local told = marks and keep_marks(SESSION, marks)
local others = suspects == 1 and redis.call('ZCOUNT', CONSUMERS, '(' .. now, '+inf') - 1 or -1
return {
  'ok', now, epoch, late, unknown and 1 or 0, suspects, others,
  soonest and math.max(soonest - now, 0) or -1, sweep,
  unknown and redis.call('LRANGE', DOING, 0, -1) or claimed, ready == 0 and rests and -1 or ready, last,
  session[6] or told and '' or nil, told or nil, -- nil: the reply ends before it
}
