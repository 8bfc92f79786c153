-- Shared by the scripts that look into elements: what is an envelope, and how to make or bump one.
-- The layout is drawn in core/envelope.py; offsets here count from 1.
local MAGIC = '\193rlq'
local BELL = '\193rlq\0' -- no message: wakes one idle consumer, which drops it (put.lua rings it)

-- Whether e is a complete envelope of any version. Only then may its counters be touched.
local function whole(e)
  return #e > 39
    and string.sub(e, 1, 4) == MAGIC
    and tonumber(string.sub(redis.sha1hex(string.sub(e, 24)), 1, 8), 16) == struct.unpack('>I4', e, 10)
end

-- Up to so many elements of a list, from its right end, and up to so many bytes; a first one that is larger
-- comes alone. Reads in small pages, so that large elements behind small ones are not read in vain.
local function from_right(list, most, budget)
  local seen, bytes, largest, step = {}, 0, 1, 1
  while #seen < most do
    local page = redis.call('LRANGE', list, -#seen - step, -#seen - 1)
    for i = #page, 1, -1 do
      bytes = bytes + #page[i]
      if #seen > 0 and bytes > budget then
        return seen
      end
      largest = math.max(largest, #page[i])
      seen[#seen + 1] = page[i]
    end
    if #page < step then
      return seen
    end
    step = math.min(most - #seen, #seen * 2, 16, math.max(1, math.floor((budget - bytes) / largest)))
  end
  return seen
end

local function lost_count(e)
  return string.byte(e, 5) == 1 and string.byte(e, 22) or 0
end

local function to_bytes(hex)
  return (string.gsub(hex, '..', function(pair)
    return string.char(tonumber(pair, 16))
  end))
end

local function to_hex(bytes)
  return string.format(string.rep('%02x', #bytes), string.byte(bytes, 1, -1))
end

-- The envelope of a foreign element. The id is time-ordered (UUID version 7); what makes it unique is
-- the salt: a consumer's name is never reused, and its trips are numbered.
local function wrap(raw, now, salt)
  local tail = to_bytes(string.sub(redis.sha1hex(salt), 1, 20))
  local a, b, c = string.byte(tail, 1, 3)
  local id = struct.pack('>I6', now)
    .. string.char(0x70 + a % 16, b, 0x80 + c % 64)
    .. string.sub(tail, 4, 10)
  local immutable = id .. '\129\161r\195' .. raw -- meta {"r": true}
  local sum = to_bytes(string.sub(redis.sha1hex(immutable), 1, 8))
  return MAGIC .. '\1' .. struct.pack('>I4', 23 + #immutable) .. sum
    .. '\0\0\0\0\0\0\0\0\0\0' .. immutable
end

-- The element after going back once more; counts a lost delivery if it was in a handler's hands.
local function bump(e, was_lost)
  local returns, failed, released, lost = struct.unpack('>I4I2I2B', string.sub(e, 14, 22))
  if was_lost then
    lost = math.min(lost + 1, 255)
  end
  returns = math.min(returns + 1, 4294967295) -- only a forged envelope gets there
  return string.sub(e, 1, 13) .. struct.pack('>I4I2I2B', returns, failed, released, lost) .. string.sub(e, 23)
end
