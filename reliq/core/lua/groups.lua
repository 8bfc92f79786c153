-- Shared by the scripts that claim: messages of a group gather, and come together when it is time. (With envelope.lua
-- before it.)
--
-- Such a message waits in 'later', at a serial number from 8e15 on, and the ZSET 'lanes' has the order of each group
-- (as in lanes.lua, with 'g' before the digest). In the ZSET 'turns' is 'g' and the group: GROUPS and the server ms
-- when it is time, as its puts have said (put.lua). In 'uniques' is '*group': since when it gathers, and how many have
-- come.
local GROUPS = 20000000000000

local function groups(UNIQUES, LANES, READY, LATER, TURNS)
  local function group_of(e)
    local meta = meta_of(e)
    local group = meta and meta.g
    return type(group) == 'string' and group or nil
  end

  -- Let one go, as far as there is room; whether all of it has.
  local function let_go(group, most, budget)
    local lane, count, bytes = 'g' .. sha1hex(group), 0, 0
    while true do
      local entries = redis.call('ZRANGEBYLEX', LANES, '[' .. lane, '(' .. lane .. ':', 'LIMIT', 0, 16)
      for _, entry in ipairs(entries) do
        local score = sub(entry, 42)
        for _, waits in ipairs(redis.call('ZRANGEBYSCORE', LATER, score, score)) do
          if group_of(waits) == group then
            count, bytes = count + 1, bytes + #waits
            if count > most or count > 1 and bytes > budget then
              return false
            end
            redis.call('LPUSH', READY, waits)
            redis.call('ZREM', LATER, waits)
          end
        end
        redis.call('ZREM', LANES, entry)
      end
      if #entries < 16 then
        return true
      end
    end
  end

  return {
    of = group_of,
    -- Let the first ones go whose time has come, a few in one call; returns how many messages are ready then.
    go = function(now, most, budget)
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', TURNS, GROUPS, GROUPS + now, 'LIMIT', 0, 3)) do
        if let_go(sub(member, 2), most, budget) then
          redis.call('ZREM', TURNS, member)
          redis.call('HDEL', UNIQUES, '*' .. sub(member, 2))
        end
      end
      return redis.call('LLEN', READY)
    end,
    next_at = function()
      local first = redis.call('ZRANGEBYSCORE', TURNS, GROUPS, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
      return first and tonumber(first) - GROUPS
    end,
  }
end
