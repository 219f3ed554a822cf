-- SETTLE: turn a batch of holds into what was really used.
--
-- KEYS  per group: the account's counters hash, its holds hash
-- ARGV  generation, then per group: owner, n, n x (meter, units), m, m x rid
--       A group is requests of one account that used the same.
--       n = 0 voids: everything held is given back. With an owner it is this worker that gives up on an admission; while
--       others still own the hold it stays theirs, so that nobody takes it from the worker that Envoy asked next.
-- Returns per group which of its requests (from 1) are still owned by others, mostly none; or -4, account not loaded.
-- What was settled before, or was never admitted here, is done like the rest.
--
-- It applies only to an open hold, so any number of repetitions settle once, without a set of seen ids. The tombstone
-- it leaves keeps a delayed duplicate of the admission from coming back; whoever settled removes it some seconds later.

local generation = ARGV[1]
local time = redis.call('TIME')
local tombstone = '!' .. string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))

local byte, TOMBSTONE = string.byte, string.byte('!')

-- What settling changes on each counter.
local function differences(hold, used)
  local found = {}
  for counter, meter, units in string.gmatch(hold, '([^;|,]+)|([^|]*)|(%d+)') do
    found[counter] = (found[counter] or 0) + (used[meter] or 0) - tonumber(units)
  end
  return found
end

-- The hold as its other owners have it, once `owner` has let go of it; nil: there are none.
local function left_to_others(hold, owner)
  local suspect, owners, rest = string.match(hold, '^([?]?)([^;]*)(;.*)$')
  local others = {}
  for each in string.gmatch(owners, '[^+]+') do
    if each ~= owner then others[#others + 1] = each end
  end
  return #others > 0 and suspect .. table.concat(others, '+') .. rest or nil
end

local function settle(counters, holds, at)
  local owner, n = ARGV[at], tonumber(ARGV[at + 1])
  local used = {}
  for i = 1, n do used[ARGV[at + 2 * i]] = tonumber(ARGV[at + 1 + 2 * i]) end
  local first = at + 2 + 2 * n
  local m = tonumber(ARGV[first])
  if redis.call('HGET', counters, 'gen') ~= generation then return -4, first + m + 1 end

  local known = redis.call('HMGET', holds, unpack(ARGV, first + 1, first + m))
  local owned, writes, left, open_with = {}, {}, {}, {}
  for j = 1, m do
    local rid, hold = ARGV[first + j], known[j]
    if left[rid] == nil then  -- else the same request stands twice in one group
      local is_open = hold and byte(hold) ~= TOMBSTONE
      local others = is_open and owner ~= '' and left_to_others(hold, owner)
      left[rid] = others or false
      -- Holds of one account are mostly the same text.
      if is_open and not others then open_with[hold] = (open_with[hold] or 0) + 1 end
    end
    writes[2 * j - 1], writes[2 * j] = rid, left[rid] or tombstone
    if left[rid] then owned[#owned + 1] = j end
  end
  redis.call('HSET', holds, unpack(writes))
  local more = {}
  for hold, count in pairs(open_with) do
    for counter, difference in pairs(differences(hold, used)) do
      more[counter] = (more[counter] or 0) + count * difference
    end
  end
  for counter, difference in pairs(more) do
    if difference ~= 0 then redis.call('HINCRBY', counters, counter, string.format('%.0f', difference)) end
  end
  return owned, first + m + 1
end

local results, at = {}, 2
for i = 1, #KEYS / 2 do
  results[i], at = settle(KEYS[2 * i - 1], KEYS[2 * i], at)
end
return results
