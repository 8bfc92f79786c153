-- put: accept new messages, into ready or into later.
--
-- Guarantee: a repeat with the same producer and sequence adds nothing (I7), and with an explicit id the
--   marker does the same for anybody. Refused under out-of-memory before anything is written. A repeat changes
--   nothing, but it is a write (of what stands there), so that a WAIT behind it waits for the first time too.
-- KEYS  1 ready  2 producers (HASH producer -> sequence, and ":ms" if a sweep has found it idle)
--       unless it is plainly for now: 3 later  4 consumers  5 traces  then, as far as ARGV 10, 5, 11 and 9 ask for
--       them, who has the key that is unique (a field of a HASH, or for a time a string), the marker and the result
--       that an earlier message with this id may have left, stats, uniques, lanes, turns (for ARGV 11 to 13), the body
-- ARGV  1 producer  2 sequence
--       with KEYS 3: 3 'ready' | 'in' | 'at'  4 ms of delay, or Unix ms  5 dedupe window, ms (0: there is no marker)
--       6 ids (hex, separated by spaces) of those that are traced  7 who puts, 8 by which program
--       9 1 if the body of the only element lies beside the list, where it was brought before, to last from here on
--       10 '' or, if it is unique (core/unique.py), msgpack of {'skip' | 'replace' | 'extend', ms (0: as long as the
--         message says), key, id (hex)}
--       11 '' or their ordering key (lanes.lua)  12 '' or their tenant (shares.lua)
--       13 '' or their group (groups.lua): ms to wait after the last one, ms after the first one, most, its name
--       .. elements, the first put first
-- Returns 1 accepted | 0 this was here before | -1 nothing was done: that body is not there, -2: the queue takes none
--   | {'kept', id}: that one has the key, nothing was put | {'replaced', id}: accepted, and that one gives way
-- Cost  O(elements); at most 1,000 elements or 256 kB a call, one larger element goes alone
local record = redis.call('HMGET', KEYS[2], ARGV[1], ':closed')
local seen, full = record[1], KEYS[3]
local last = seen and (tonumber(seen) or tonumber(string.match(seen, '^%d+')))
local repeated = last and tonumber(ARGV[2]) <= last
if not (full or repeated or record[2]) then -- as most puts are
  redis.call('LPUSH', KEYS[1], unpack(ARGV, 3))
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  return 1
end

local unique = full and ARGV[10] ~= '' and cmsgpack.unpack(ARGV[10])
local marker = full and ARGV[5] ~= '0' and KEYS[unique and 7 or 6]
local body = full and ARGV[9] == '1' and KEYS[#KEYS]
local end_of_keys = body and #KEYS - 1 or #KEYS
local tenant = full and ARGV[12] ~= '' and ARGV[12]
local grace, longest, most, group = string.match(full and ARGV[13] or '', '^(%d+) (%d+) (%d+) (.+)$')
local ordering = full and ARGV[11] ~= '' and ARGV[11]
local stats = (ordering or tenant or group) and KEYS[end_of_keys - 3]
local result = marker and KEYS[unique and 8 or 7]
local mark = marker and redis.call('GET', marker)
if repeated or mark then
  redis.call('HDEL', KEYS[2], '') -- allowed when out of memory; so is what follows
  if repeated then
    redis.call('HSET', KEYS[2], ARGV[1], seen)
  else
    redis.call('SET', marker, mark, 'KEEPTTL')
  end
  if body and redis.call('PTTL', body) >= 0 then -- that of a message is made to last
    redis.call('UNLINK', body)
  end
  return 0
end

if record[2] then
  return -2
end

local other, how, ms, key, id
if unique then
  how, ms, key, id = unpack(unique)
  if ms == 0 then
    other = redis.call('HGET', KEYS[6], '+' .. key)
  else
    other = redis.call('GET', KEYS[6])
  end
  if other and how ~= 'replace' then
    redis.call('HDEL', KEYS[2], '')
    if how == 'extend' then
      redis.call('PEXPIRE', KEYS[6], ms)
    end
    if body and redis.call('PTTL', body) >= 0 then
      redis.call('UNLINK', body)
    end
    return {'kept', other}
  end
end

if body and redis.call('EXISTS', body) == 0 then
  return -1
end

local function mark_it()
  if marker then
    redis.call('SET', marker, '1', 'PX', ARGV[5])
    redis.pcall('DEL', result) -- now: it is none of this message
  end
end

local idle = redis.call('LLEN', KEYS[1]) == 0 -- a wrong type fails here, before the first write
local live = full and redis.call('ZCOUNT', KEYS[4], '-inf', '+inf') -- it fails here, too
local UNIQUES, LANES, TURNS = unpack(KEYS, end_of_keys - 2, end_of_keys)
if stats then
  redis.call('HLEN', UNIQUES)
  redis.call('ZCARD', LANES)
  redis.call('ZCARD', TURNS)
  redis.call('ZCARD', KEYS[3])
end
if stats then -- from here on trips look at who has the turn, and at tenants
  if ordering then
    redis.call('HSETNX', stats, 'ordered', 1)
  end
  if tenant then
    redis.call('HSETNX', stats, 'shared', '- - -')
  end
  if group then
    redis.call('HSETNX', stats, 'grouped', 1)
  end
end
if ARGV[3] == 'ready' and (tenant or group) then
  mark_it()
  local lane = (tenant and 't' or 'g') .. redis.sha1hex(tenant or group)
  local from = tenant and 6000000000000000 or 8000000000000000
  for i = 14, #ARGV do
    local score = string.format('%.0f', from + redis.call('HINCRBY', UNIQUES, '#', 1))
    if redis.call('ZADD', KEYS[3], 'NX', score, ARGV[i]) == 0 then -- equal to one that waits
      redis.call('LPUSH', KEYS[1], ARGV[i])
    else
      redis.call('ZADD', LANES, 0, lane .. score)
    end
  end
  local sooner = true
  if tenant then
    local least = redis.call('ZRANGEBYSCORE', TURNS, '-inf', '(1000000000000', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    redis.call('ZADD', TURNS, 'NX', least or 0, 'w' .. tenant)
  else
    local t = redis.call('TIME')
    local now = t[1] * 1000 + math.floor(t[2] / 1000)
    local since, count = string.match(redis.call('HGET', UNIQUES, '*' .. group) or now .. ' 0', '^(%d+) (%d+)$')
    count = tonumber(count) + #ARGV - 13
    local due = count >= tonumber(most) and now or math.min(now + tonumber(grace), tonumber(since) + tonumber(longest))
    local before = redis.call('ZSCORE', TURNS, 'g' .. group)
    sooner = not before or due < tonumber(before) - 20000000000000
    redis.call('HSET', UNIQUES, '*' .. group, since .. ' ' .. count)
    redis.call('ZADD', TURNS, string.format('%.0f', 20000000000000 + due), 'g' .. group)
  end
  if idle and live > 0 and sooner then
    redis.call('LPUSH', KEYS[1], '\193rlq\0')
  end
elseif ARGV[3] == 'ready' and ordering then
  -- Only who has the turn of the key is ready: what a consumer is about to bring from there could be overtaken.
  mark_it()
  for i = 14, #ARGV do
    local score = string.format('%.0f', 4000000000000000 + redis.call('HINCRBY', UNIQUES, '#', 1))
    local id = string.format('%08x%08x%08x%08x', struct.unpack('>I4I4I4I4', ARGV[i], 24))
    if redis.call('HSETNX', UNIQUES, '=' .. ordering, id) == 1
      or redis.call('ZADD', KEYS[3], 'NX', score, ARGV[i]) == 0 then -- equal to one that waits
      redis.call('LPUSH', KEYS[1], ARGV[i])
    else
      redis.call('ZADD', LANES, 0, redis.sha1hex(ordering) .. score)
    end
  end
elseif ARGV[3] == 'ready' then
  mark_it()
  redis.call('LPUSH', KEYS[1], unpack(ARGV, 14))
else
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  local due = tonumber(ARGV[4])
  if ARGV[3] == 'in' then
    due = now + due
  end
  local head = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  live = redis.call('ZCOUNT', KEYS[4], now, '+inf')
  mark_it()
  for i = 14, #ARGV do
    redis.call('ZADD', KEYS[3], due, ARGV[i])
  end
  -- Idle consumers sleep until what was due first. If this is due sooner, one of them must know.
  if idle and (not head[2] or due < tonumber(head[2])) and live > 0 then
    redis.call('LPUSH', KEYS[1], '\193rlq\0')
  end
end
if unique and ms > 0 then
  redis.call('SET', KEYS[6], id, 'PX', ms)
elseif unique then
  redis.call('HSET', KEYS[6], '+' .. key, id)
  redis.call('HDEL', KEYS[6], '-' .. id) -- an id of the user's own may have been put, and replaced, before
  if other and other ~= id then
    redis.call('HSET', KEYS[6], '-' .. other, id)
  end
end
if body then
  redis.call('PERSIST', body) -- not before: it is allowed when out of memory, and would let the message in
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for id in string.gmatch(ARGV[6], '%x+') do
  redis.pcall('XADD', KEYS[5], 'MAXLEN', '~', '10000', '*', 'event', 'put', 'id', id, 'consumer', ARGV[7],
    'detail', ARGV[8])
end
if other and other ~= id then
  return {'replaced', other}
end
return 1
