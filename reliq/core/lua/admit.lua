-- Shared by the scripts that claim: how many messages may go, of a queue that is paused or has limits (gate.lua).

-- So many of those wanted may go now; and if it is none that stay behind for a reason of ours: -1 it is paused, or for
-- how many ms there is no use in asking again. held() counts what is in hand, of all consumers.
local function admit(stats, want, now, held)
  local gate = redis.call('HMGET', stats, 'paused', 'rate', 'burst', 'tokens', 'tokens_at', 'concurrency')
  if gate[1] then
    return 0, -1
  end
  local may, wait = want, 0
  if gate[6] then
    may = math.max(0, math.min(may, tonumber(gate[6]) - held()))
    wait = may < want and 200 or 0 -- who settles one claims one; this is for what the dead have left
  end
  if gate[2] then
    local rate, burst, at = tonumber(gate[2]), tonumber(gate[3]), tonumber(gate[5] or now)
    if at > now then -- the clock went back, or this is another server: none would come until it is where it was
      redis.call('HSET', stats, 'tokens_at', now)
      at = now
    end
    local tokens = math.min(burst, tonumber(gate[4] or burst) + (now - at) * rate / 1000)
    if tokens < may then
      may = math.floor(tokens)
      wait = math.max(wait, math.min(1000, math.max(10, math.ceil((may + 1 - tokens) * 1000 / rate))))
    end
    return may, wait, tokens
  end
  return may, wait
end

-- So many went: their tokens are spent.
local function spend(stats, count, now, tokens)
  if tokens then
    redis.pcall('HSET', stats, 'tokens', string.format('%.6f', tokens - count), 'tokens_at', now)
  end
end
