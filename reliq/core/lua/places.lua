-- Shared by the scripts that mend a list: find an element again near where it was seen, and take it out.
local BELL = '\193rlq\0' -- no message (put.lua)
local REACH = 1000

-- Where an element stands in a list now, from the left, if that is near where it was seen: a put moves it one place
-- on. nil: it is not there any more. At most 1,000 elements to each side, or 256 kB in all, are looked at; one larger
-- element goes alone.
local function near(list, element, seen, but_not)
  local low, high, step, left = seen, seen, 1, 262144
  while left > 0 and high - low < 2 * REACH do
    local behind = redis.call('LRANGE', list, high, high + step - 1)
    for i = 1, #behind do
      if behind[i] == element and high + i - 1 ~= but_not then
        return high + i - 1
      end
      left = left - #behind[i]
    end
    local from = math.max(0, low - step)
    local before = low > from and left > 0 and redis.call('LRANGE', list, from, low - 1) or {}
    for i = #before, 1, -1 do
      if before[i] == element and from + i - 1 ~= but_not then
        return from + i - 1
      end
      left = left - #before[i]
    end
    if #behind == 0 and from == low then
      return nil
    end
    low, high, step = from, high + step, math.min(step * 2, 16)
  end
  return nil
end

-- Take out the element at a place. To remove by value would take as long as the list is deep, so it becomes a bell,
-- which is no message; near an end that is removed at once, and else consumers drop it when they get there.
local function take_out(list, place)
  local length = redis.call('LLEN', list)
  redis.call('LSET', list, place, BELL)
  if place < REACH then
    redis.call('LREM', list, 1, BELL)
  elseif length - place <= REACH then
    redis.call('LREM', list, -1, BELL)
  end
end

-- Whether it stands there: in a sorted set, or in a list near where it was seen (then: its place).
local function stands(key, element, seen, but_not)
  if seen == '' then
    return redis.call('ZSCORE', key, element) and true or nil
  end
  return near(key, element, tonumber(seen), but_not)
end

local function remove(key, element, place)
  if place == true then
    redis.call('ZREM', key, element)
  else
    take_out(key, place)
  end
end

-- Whether what stands at this place of ready is in the hands of who holds the queue for himself alone: he leaves his
-- batch at the right end, and it must be there when he settles it.
local function in_batch(ready, place, stats, consumers, lock)
  local holder = redis.call('HGET', stats, 'exclusive')
  if not holder then
    return false
  end
  local t = redis.call('TIME')
  local ends = redis.call('ZSCORE', consumers, holder)
  local count = tonumber(redis.call('HGET', lock, 'count') or '0')
  return ends and tonumber(ends) > t[1] * 1000 + math.floor(t[2] / 1000)
    and redis.call('LLEN', ready) - place <= count
end
