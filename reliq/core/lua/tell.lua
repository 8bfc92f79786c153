-- Shared by the scripts by which messages end: who waits for the result of one is told. (After envelope.lua.)

-- One element stands there for so long: BLMOVE from the list to itself shows it to everybody who waits, and leaves it.
-- By now nothing may fail.
local function keep(key, ms, answer)
  redis.pcall('DEL', key)
  redis.pcall('RPUSH', key, answer)
  redis.pcall('PEXPIRE', key, ms)
end

-- The death note of a member of dead, without the element behind it.
local function note_of(member)
  local fine, ends = pcall(cmsgpack.unpack_one, member)
  return fine and ends > 0 and sub(member, 1, ends) or member
end

-- Tell what became of a message instead, if its put has asked, as its meta says (core/results.py). `results`: what the
-- keys begin with, in this slot; `note`: a death note, or that and the element behind it.
local function tell(results, e, note)
  if #e < 41 or byte(e, 5) ~= 1 or byte(e, 40) == 128 then
    return
  end
  local fine, _, meta = pcall(cmsgpack.unpack_one, e, 39)
  local ms = fine and type(meta) == 'table' and meta.w
  if type(ms) == 'number' and ms >= 1 and ms < 1e13 then
    keep(results .. to_hex(e, 24), format('%.0f', ms), note_of(note))
  end
end

-- The note of one that was cancelled; `by`: who, and a word about that.
local function called_off(id, by)
  local word = by[2] ~= '' and ' (' .. by[2] .. ')' or ''
  return cmsgpack.pack({id = id, cause = 'CANCELLED', error = 'cancelled by ' .. by[1] .. word})
end
