-- seize: take a queue for oneself alone (the exclusive mode), or end such a hold whose lease is over.
--
-- Guarantee: granted only while nobody else lives at this queue or holds anything of it. From then on no trip
--   registers or claims, until the lock is let go (free.lua) or its lease is over and this script ends it. The batch
--   that a holder left unfinished counts as lost once, in its place, and is handed out in halves from then on, until
--   a message is alone: if its consumers die with it as often as the limit says, it is dead-lettered as POISON.
--   In company no loss is counted that would be the last one. Repeating it under the same name changes nothing.
-- KEYS  1 ready  2 lock  3 consumers  4 stats  5 dead  6 events  7 session of the caller
--       8 uniques  9 lanes  10 later  11 what the keys of results begin with
--       12.. inbox and processing list of each consumer that is named
-- ARGV  1 the caller ('': only end what is over)  2 who this is  3 lease, ms  4 losses before POISON
--       5 server run id ('' if unknown)  6 '1' if a lease that is over may be believed to be  7.. registered consumers
-- Returns {'granted' | 'held' | 'over' | 'waiting' | 'busy' | 'changed' | 'free' | 'gone', server ms, fence,
--   ms left of the lease of the holder, who holds the queue, or who is there}
-- Cost  O(consumers named + batch); a batch is at most 1,000 elements or 256 kB, or one larger element
local READY, LOCK, CONSUMERS, STATS, DEAD, EVENTS, SESSION, UNIQUES, LANES, LATER, RESULTS = unpack(KEYS, 1, 11)
local name, lease, limit = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

redis.call('LLEN', READY)
redis.call('ZCARD', DEAD)
local registered = redis.call('ZCARD', CONSUMERS)
local stats = redis.call('HMGET', STATS, 'exclusive', 'server', 'server_since')
local lock = redis.call('HMGET', LOCK, 'left', 'fence', 'count', 'bytes', 'digest')
local holder, fence, count = stats[1], tonumber(lock[2] or '0'), tonumber(lock[3] or '0')
redis.call('HLEN', SESSION)
local here, known = {}, 0 -- who lives, or holds something; how many of those named are registered
for i = 7, #ARGV do
  local first = 12 + 2 * (i - 7)
  local holds = redis.call('LLEN', KEYS[first]) + redis.call('LLEN', KEYS[first + 1])
  local lease_end = redis.call('ZSCORE', CONSUMERS, ARGV[i])
  known = known + (lease_end and 1 or 0)
  if (tonumber(lease_end or '0') > now or holds > 0) and #here < 20 then
    here[#here + 1] = ARGV[i]
  end
end

local function note(event, id, detail)
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', '10000', '*', 'event', event, 'id', id,
    'consumer', name ~= '' and name or holder or '', 'detail', detail)
end

if name ~= '' and lock[1] == name then -- an old copy of a call: its sender has let go since
  return {'gone', now, fence, 0, {}}
end
redis.call('ZREM', CONSUMERS, '') -- allowed when out of memory; from here on everything is
if holder and holder == name then
  redis.call('ZADD', CONSUMERS, now + lease, name)
  return {'granted', now, fence, lease, {name}}
end
if name ~= '' and (registered ~= #ARGV - 6 or registered ~= known) then -- as many may be others
  return {'changed', now, fence, 0, {}}
end
if holder then
  local left = tonumber(redis.call('ZSCORE', CONSUMERS, holder) or '0') - now
  if left > 0 then
    return {'held', now, fence, left, {holder}}
  end
  if ARGV[5] ~= '' and ARGV[5] ~= stats[2] then
    redis.call('HSET', STATS, 'server', ARGV[5], 'server_since', now)
    return {'waiting', now, fence, lease, {holder}}
  end
  local since = tonumber(stats[3] or '0')
  if now - since < lease then -- it could not renew before the server was up (or primary)
    return {'waiting', now, fence, since + lease - now, {holder}}
  end
  if ARGV[6] ~= '1' then
    return {'over', now, fence, 0, {holder}}
  end
end
if name ~= '' and #here > 0 then
  return {'busy', now, fence, 0, here}
end

-- What a holder left unfinished.
if holder then
  note('takeover', '', holder .. ', ' .. count .. ' in hand')
end
if count > 0 then
  local batch = oldest(READY, count, tonumber(lock[4] or '0'), string.len)
  if #batch ~= count or digest(batch) ~= lock[5] then
    note('mismatch', '', count .. ' were in hand, and are not at the head')
  elseif count == 1 and byte(batch[1], 5) == 1 and lost_count(batch[1]) + 1 >= limit then
    local back, id = bump(batch[1], true), to_hex(batch[1], 24)
    local why = {
      id = id, cause = 'POISON', at = now, worker = holder or '', n = fence,
      error = 'its consumers died ' .. lost_count(back) .. ' times with it alone in hand, or in a batch',
    }
    redis.call('ZADD', DEAD, now, cmsgpack.pack(why) .. back)
    redis.call('RPOP', READY)
    free(back, UNIQUES, turns(UNIQUES, LANES, READY, LATER)) -- which may bring another one there
    tell(RESULTS, back, cmsgpack.pack(why))
    redis.call('HSET', LOCK, 'span', 0, 'size', 0)
    note('bury', id, 'POISON')
    redis.pcall('HINCRBY', STATS, 'bury', 1)
  else
    local marked = {}
    for i, element in ipairs(batch) do
      local is_lost = count == 1 or lost_count(element) < limit - 1
      marked[i] = byte(element, 5) == 1 and bump(element, is_lost) or element
    end
    replace(READY, marked)
    redis.call('HSET', LOCK, 'span', count, 'size', math.ceil(count / 2))
    note('reap', ids_of(batch), 'lost')
    redis.pcall('HINCRBY', STATS, 'reap', count)
  end
  redis.call('HSET', LOCK, 'count', 0, 'digest', '')
end
if holder then
  redis.call('HDEL', STATS, 'exclusive')
  redis.call('HDEL', LOCK, 'holder')
end
if name == '' then
  return {'free', now, fence, 0, {}}
end

if ARGV[5] ~= '' and ARGV[5] ~= stats[2] then -- who wants to take over later knows since when it has been up
  redis.call('HSET', STATS, 'server', ARGV[5], 'server_since', now)
end
redis.call('ZADD', CONSUMERS, now + lease, name)
redis.call('HSET', SESSION, 'who', ARGV[2], 'lease', lease, 'trip', 0)
redis.call('HSET', LOCK, 'holder', name, 'fence', fence + 1, 'batch', 0, 'number', 0, 'outcome', '')
redis.call('HSET', STATS, 'exclusive', name)
note('start', '', ARGV[2])
return {'granted', now, fence + 1, lease, {name}}
