-- Shared by the scripts that look into elements: what is an envelope, and how to make or bump one.
-- The layout is drawn in core/envelope.py; offsets here count from 1.
local sub, byte, format = string.sub, string.byte, string.format -- by an upvalue: each element takes a dozen calls
local read, write, sha1hex = struct.unpack, struct.pack, redis.sha1hex
local MAGIC = '\193rlq'
local BELL = '\193rlq\0' -- no message: wakes one idle consumer, which drops it (put.lua rings it)

-- Whether e is a complete envelope of any version. Only then may its counters be touched.
local function whole(e)
  return #e > 39 and sub(e, 1, 4) == MAGIC and tonumber(sub(sha1hex(sub(e, 24)), 1, 8), 16) == read('>I4', e, 10)
end

-- What an element weighs, with the body that lies beside it: the ticket for that stands first in its meta.
local function weight(e)
  if byte(e, 40) ~= 128 and sub(e, 41, 44) == '\161b\196\20' and #e >= 64 then
    return #e + read('>I4', e, 61)
  end
  return #e
end

-- The meta of an envelope of version 1, or nil if it is empty or cannot be read. (What unpacks it knows no binary: the
-- ticket of a body beside the list, which stands first, is left out.)
local function meta_of(e)
  if #e < 41 or byte(e, 5) ~= 1 or byte(e, 40) == 128 then
    return nil
  end
  local fine, meta, _
  if sub(e, 41, 44) == '\161b\196\20' then
    fine, meta = pcall(cmsgpack.unpack, string.char(byte(e, 40) - 1) .. sub(e, 65))
  else
    fine, _, meta = pcall(cmsgpack.unpack_one, e, 39)
  end
  return fine and type(meta) == 'table' and meta or nil
end

-- Up to so many elements of a list, from its right end, and up to so many bytes by this measure; a first one that
-- is larger comes alone. Reads in small pages, so that large elements behind small ones are not read in vain.
local function from_right(list, most, budget, measure)
  local seen, n, bytes, largest, step = {}, 0, 0, 1, 1
  while n < most do
    local page = redis.call('LRANGE', list, -n - step, -n - 1)
    for i = #page, 1, -1 do
      local element = page[i]
      bytes = bytes + measure(element)
      if n > 0 and bytes > budget then
        return seen
      end
      if #element > largest then
        largest = #element
      end
      n = n + 1
      seen[n] = element
    end
    if #page < step then
      return seen
    end
    step = math.min(most - n, n * 2, 16, math.max(1, math.floor((budget - bytes) / largest)))
  end
  return seen
end

local function lost_count(e)
  return byte(e, 5) == 1 and byte(e, 22) or 0
end

local function to_bytes(hex)
  return (string.gsub(hex, '..', function(pair)
    return string.char(tonumber(pair, 16))
  end))
end

-- The id that begins there, as text.
local function to_hex(bytes, at)
  return format('%08x%08x%08x%08x', read('>I4I4I4I4', bytes, at or 1))
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
  local head, returns, middle, lost = read('>c13I4c4B', e)
  if was_lost and lost < 255 then
    lost = lost + 1
  end
  if returns < 4294967295 then -- only a forged envelope gets there
    returns = returns + 1
  end
  return write('>c13I4c4B', head, returns, middle, lost) .. sub(e, 23)
end
