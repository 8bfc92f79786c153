-- fire: ticks become messages, each tick one message.
--
-- Guarantee: a tick is fired only if its schedule is as it was read and this tick is its next one, and in the same
--   step the one behind it becomes the next: so any number may fire at once, and a repeat adds nothing. Refused under
--   out-of-memory before anything is written, and nothing is fired while the queue takes no puts (put.lua): then
--   the tick stays due.
-- KEYS  1 ready  2 later  3 consumers  4 schedules  5 ticks  6 stats  7 traces  8 producers
-- ARGV  1 who fires, 2 by which program
--       3.. ticks of seven words each, those of one schedule in order: name, its definition ('': there is none any
--       more), tick, the next tick ('': none), when the message is due (server ms), the message ('': passed over),
--       its id (hex) if it is traced, else ''
-- Returns {server ms, fired, ms until the next tick (-1: there is none)}
-- Cost  O(ticks * log schedules); at most 500 or 256 kB a call, one larger message goes alone
local READY, LATER, CONSUMERS, SCHEDULES, TICKS, STATS, TRACES, PRODUCERS = unpack(KEYS)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local names = {}
for i = 3, #ARGV, 7 do
  names[#names + 1] = ARGV[i]
end
local definitions, next_of = redis.call('HMGET', SCHEDULES, unpack(names)), {}
for n, score in ipairs(redis.call('ZMSCORE', TICKS, unpack(names))) do
  next_of[names[n]] = tonumber(score or '')
end
local told = redis.call('HGET', STATS, 'tick_at')
local idle = redis.call('LLEN', READY) == 0
local head = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2]
local live = redis.call('ZCOUNT', CONSUMERS, now, '+inf')

if redis.call('HGET', PRODUCERS, ':closed') then
  return {now, 0, 1000}
end

local ready, later, moved, traced, fired = {}, {}, {}, {}, 0
local soonest = math.huge
for n = 1, #names do
  local _, definition, tick, following, due, message, id = unpack(ARGV, 7 * n - 4, 7 * n + 2)
  if (definitions[n] or '') == definition and next_of[names[n]] == tonumber(tick) then
    next_of[names[n]] = tonumber(following)
    moved[names[n]] = true
    if message ~= '' then
      fired = fired + 1
      if tonumber(due) <= now then
        ready[#ready + 1] = message
      else
        soonest = math.min(soonest, tonumber(due))
        later[#later + 1] = due
        later[#later + 1] = message
      end
      traced[#traced + 1] = id ~= '' and id or nil
    end
  end
end

-- The first of these writes is one that a full Redis refuses, and nothing was written then.
if #ready > 0 then
  redis.call('LPUSH', READY, unpack(ready))
end
if #later > 0 then
  redis.call('ZADD', LATER, unpack(later))
end
local set, gone = {}, {}
for name in pairs(moved) do
  if next_of[name] then
    set[#set + 1] = next_of[name]
    set[#set + 1] = name
  else
    gone[#gone + 1] = name
  end
end
if #set > 0 then
  redis.call('ZADD', TICKS, unpack(set))
end
if #gone > 0 then
  redis.call('ZREM', TICKS, unpack(gone))
end
local at = note_soonest(TICKS, STATS, now)
for _, id in ipairs(traced) do
  redis.pcall('XADD', TRACES, 'MAXLEN', '~', '10000', '*', 'event', 'put', 'id', id, 'consumer', ARGV[1],
    'detail', ARGV[2])
end
-- A message in ready wakes a consumer, which learns what is next. If there is none, one that sleeps must know.
soonest = math.min(soonest, at or math.huge)
if idle and #ready == 0 and live > 0 and soonest < tonumber(told or 'inf') and soonest < tonumber(head or 'inf') then
  redis.call('LPUSH', READY, '\193rlq\0')
end
return {now, fired, at and math.max(at - now, 0) or -1}
