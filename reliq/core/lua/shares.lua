-- Shared by the scripts that put, claim and bring back messages of tenants: each tenant gets its share, within its
-- limits. (With envelope.lua before it.)
--
-- Such a message waits in 'later', at a serial number from SHARED on, and the ZSET 'lanes' has the order of each tenant
-- (lane_of). The ZSET 'turns' has who of those that wait is next: 'w' and the tenant, by how much it has got so far
-- (who comes anew begins where the least is), or, from RESTS on, by the server ms when it may go on; who has as many in
-- hand as the limit says is not there, and comes back with the first that leaves. 'r' and the tenant: RATES and the
-- server ms at which what it got is used up by its rate. 'uniques' has '@id' of a message in hand, which is its tenant,
-- and '~tenant', how many are. So a place is held by a message, and goes with it: no crash leaks one.
local SHARED, RESTS, RATES = 6000000000000000, 1000000000000, 10000000000000

-- What there is to do with them: made only where there are any, as each function that is made costs something.
local function shares(UNIQUES, LANES, LATER, TURNS, limits)
  local rate, burst, most = string.match(limits, '^(%S+) (%S+) (%S+)$')
  rate, burst, most = tonumber(rate), tonumber(burst), tonumber(most) -- nil: '-', no such limit

  local function tenant_of(e)
    local meta = meta_of(e)
    local tenant = meta and meta.m
    return type(tenant) == 'string' and tenant or nil
  end

  local function lane_of(tenant)
    return 't' .. sha1hex(tenant)
  end

  -- The tenant has something that waits: it is in turn from now on, if it was not.
  local function enter(tenant)
    local least = redis.call('ZRANGEBYSCORE', TURNS, '-inf', '(' .. RESTS, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    redis.call('ZADD', TURNS, 'NX', least or 0, 'w' .. tenant)
  end

  -- 0: one more of the tenant may be claimed; -1: not before one has left; else: not before that ms.
  local function stands_back(tenant, now)
    if most and tonumber(redis.call('HGET', UNIQUES, '~' .. tenant) or 0) >= most then
      return -1
    end
    local used_up = rate and redis.call('ZSCORE', TURNS, 'r' .. tenant)
    if not used_up then
      return 0
    end
    -- It is not further ahead than by a whole burst, unless the limits or the clock were others.
    local may = math.min(tonumber(used_up) - RATES, now + burst * 1000 / rate) - (burst - 1) * 1000 / rate
    return may > now and math.ceil(may) or 0
  end

  -- It may not be claimed now: it waits in the lane, and its tenant until it may go on.
  local function stand_back(tenant, may)
    if may > 0 then
      redis.call('ZADD', TURNS, may, 'w' .. tenant)
    else
      redis.call('ZREM', TURNS, 'w' .. tenant)
    end
  end

  -- Let a message wait in the lane of its tenant, which stands back. False if an equal one is in later, which would
  -- become one with it.
  local function line_up(tenant, e, now)
    local score = format('%.0f', SHARED + redis.call('HINCRBY', UNIQUES, '#', 1))
    if redis.call('ZADD', LATER, 'NX', score, e) == 0 then
      return false
    end
    redis.call('ZADD', LANES, 0, lane_of(tenant) .. score)
    stand_back(tenant, stands_back(tenant, now))
    return true
  end

  -- The first message in the lane of a tenant, and its entry there; nil: none; false: not found yet, as many that
  -- have gone were passed over.
  local function first_in_lane(tenant)
    local lane = lane_of(tenant)
    for _ = 1, 300 do
      local entry = redis.call('ZRANGEBYLEX', LANES, '[' .. lane, '(' .. lane .. ':', 'LIMIT', 0, 1)[1]
      if not entry then
        return nil
      end
      local score = sub(entry, 42)
      for _, waits in ipairs(redis.call('ZRANGEBYSCORE', LATER, score, score)) do
        if tenant_of(waits) == tenant then
          return waits, entry
        end
      end
      redis.call('ZREM', LANES, entry)
    end
    return false
  end

  -- One of the tenant is claimed.
  local function count_in(tenant, id, now)
    if redis.call('HSETNX', UNIQUES, '@' .. id, tenant) == 1 then
      redis.call('HINCRBY', UNIQUES, '~' .. tenant, 1)
    end
    if rate then
      local used_up = tonumber(redis.call('ZSCORE', TURNS, 'r' .. tenant) or 0) - RATES
      local after = math.max(now, used_up) + 1000 / rate
      redis.call('ZADD', TURNS, format('%.3f', RATES + after), 'r' .. tenant)
    end
  end

  local function vacate(id)
    local tenant = redis.call('HGET', UNIQUES, '@' .. id)
    if not tenant then
      return 0
    end
    redis.call('HDEL', UNIQUES, '@' .. id)
    if redis.call('HINCRBY', UNIQUES, '~' .. tenant, -1) <= 0 then
      redis.call('HDEL', UNIQUES, '~' .. tenant)
    end
    if first_in_lane(tenant) ~= nil then
      enter(tenant)
    end
    return 1
  end

  -- A message is in hand no more: it has ended, or has gone back.
  local function count_out(e)
    vacate(to_hex(e, 24))
  end

  -- Who may go on by now is in turn again, and what is used up is forgotten. So is who rests for longer than for one
  -- message, as the limits, or the clock, were others then: it is looked at anew.
  local function wake_tenants(now)
    local too_late = '(' .. string.format('%.0f', now + (rate and math.ceil(1000 / rate) or 0))
    for _, span in ipairs({{RESTS, now}, {too_late, '(' .. RATES}}) do
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', TURNS, span[1], span[2], 'LIMIT', 0, 100)) do
        redis.call('ZREM', TURNS, member)
        enter(sub(member, 2))
      end
    end
    local idle = redis.call('ZRANGEBYSCORE', TURNS, RATES, RATES + now, 'LIMIT', 0, 20)
    if #idle > 0 then
      redis.call('ZREM', TURNS, unpack(idle))
    end
  end

  -- Claim in turn, until nobody is left who may, or take(element) says nil; else it says whether that is 'claimed',
  -- was 'moved' within later, or is elsewhere. One call looks at 150: to move one takes a fiftieth of a ms, and more.
  local function serve_tenants(want, now, take)
    local looked = 0
    while want > 0 and looked < 150 do
      looked = looked + 1
      local who = redis.call('ZRANGEBYSCORE', TURNS, '-inf', '(' .. RESTS, 'WITHSCORES', 'LIMIT', 0, 1)
      if not who[1] then
        return
      end
      local tenant = sub(who[1], 2)
      local may = stands_back(tenant, now)
      local element, entry = nil, nil
      if may == 0 then
        element, entry = first_in_lane(tenant)
      end
      if element == false then
        return
      elseif not element then
        stand_back(tenant, may)
      else
        local taken = take(element, tenant)
        if taken == nil then
          return
        end
        redis.call('ZREM', LANES, entry)
        if taken ~= 'moved' then
          redis.call('ZREM', LATER, element)
        end
        if taken == 'claimed' then
          count_in(tenant, to_hex(element, 24), now)
          redis.call('ZADD', TURNS, tonumber(who[2]) + 1, who[1])
          want = want - 1
        end
      end
    end
  end

  return {
    some = function() -- who wait and may go on
      return redis.call('ZCOUNT', TURNS, '-inf', '(' .. RESTS)
    end,
    rests_until = function() -- the first of those that wait and may not yet
      return redis.call('ZRANGEBYSCORE', TURNS, RESTS, '(' .. RATES, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    end,
    tenant_of = tenant_of, line_up = line_up, stands_back = stands_back, count_in = count_in, count_out = count_out,
    vacate = vacate, wake = wake_tenants, serve = serve_tenants,
  }
end
