-- Shared by the scripts that claim and that end messages: those with the same ordering key are handed out one at a
-- time, in order. (With envelope.lua before it.)
--
-- Of a key that has a message on its way, '=key' in the HASH 'uniques' is the id of that message: it has the turn until
-- it ends. Those that wait for theirs are in 'later', at a serial number that no clock reaches, so that whatever acts
-- on what is put off (search, cancel, purge, ...) acts on them. The ZSET 'lanes' has their order: a digest of the key
-- and the serial number, all of one score. It may name some that are not in 'later' any more.
local PARKED = 4000000000000000

-- What there is to do with them: made only where there are any, as each function that is made costs something.
local function turns(UNIQUES, LANES, READY, LATER)
  -- The ordering key of a message, if it has one.
  local function ordering_of(e)
    local meta = meta_of(e)
    local key = meta and meta.o
    return type(key) == 'string' and key or nil
  end

  local function lane_of(key, score)
    return sha1hex(key) .. format('%016.0f', score)
  end

  -- Whether this message has the turn of its key, or takes it as nobody has.
  local function has_turn(key, id)
    return redis.call('HSETNX', UNIQUES, '=' .. key, id) == 1 or redis.call('HGET', UNIQUES, '=' .. key) == id
  end

  -- Let a message wait for its turn, wherever it is in later.
  local function put_aside(key, e)
    local score = PARKED + redis.call('HINCRBY', UNIQUES, '#', 1)
    redis.call('ZADD', LATER, format('%.0f', score), e)
    redis.call('ZADD', LANES, 0, lane_of(key, score))
  end

  -- The same of one that is not there. False if an equal one is: a sorted set would make one of the two.
  local function park(key, e)
    if redis.call('ZSCORE', LATER, e) then
      return false
    end
    put_aside(key, e)
    return true
  end

  -- It leaves 'later', where it had this score: it waits for no turn any more.
  local function unpark(e, score)
    local at, meta = tonumber(score or 0), meta_of(e)
    if at >= 8000000000000000 and meta and type(meta.g) == 'string' then -- a group's (groups.lua)
      redis.call('ZREM', LANES, 'g' .. sha1hex(meta.g) .. format('%.0f', at))
    elseif at >= 6000000000000000 and meta and type(meta.m) == 'string' then -- a tenant's (shares.lua)
      redis.call('ZREM', LANES, 't' .. sha1hex(meta.m) .. format('%.0f', at))
    elseif at >= PARKED and meta and type(meta.o) == 'string' then
      redis.call('ZREM', LANES, lane_of(meta.o, at))
    end
  end

  -- The next one of the lane of a key has the turn, and is at the head of ready. (Returns how many came there.) One
  -- call passes over at most 1,000 that are not there any more.
  local function call_next(key)
    local digest = sha1hex(key)
    for _ = 1, 1000 do
      local first = redis.call('ZRANGEBYLEX', LANES, '[' .. digest, '(' .. digest .. ':', 'LIMIT', 0, 1)[1]
      if not first then
        break
      end
      local score = sub(first, 41)
      for _, waits in ipairs(redis.call('ZRANGEBYSCORE', LATER, score, score)) do
        if ordering_of(waits) == key then
          redis.call('RPUSH', READY, waits)
          redis.call('ZREM', LATER, waits)
          redis.call('ZREM', LANES, first)
          redis.call('HSET', UNIQUES, '=' .. key, to_hex(waits, 24))
          return 1
        end
      end
      redis.call('ZREM', LANES, first)
    end
    redis.call('HDEL', UNIQUES, '=' .. key)
    return 0
  end

  -- A message has ended: if the turn was its own, it goes on. Nothing may fail here, since it has gone by now.
  local function end_turn(e)
    local key = ordering_of(e)
    if not key or redis.pcall('HGET', UNIQUES, '=' .. key) ~= to_hex(e, 24) then
      return 0
    end
    local fine, came = pcall(call_next, key)
    return fine and came or 0
  end

  return {
    key_of = ordering_of, has = has_turn, park = park, put_aside = put_aside, unpark = unpark, pass = end_turn,
    call_next = call_next,
  }
end
