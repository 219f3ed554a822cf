-- SETTLE: turn a batch of holds into what was really used.
--
-- KEYS  per group: the account's counters hash, its holds hash
-- ARGV  generation, then per group: owner, n, n x (meter, units), m, m x rid
--       A group is requests of one account that used the same.
--       n = 0 voids: everything held is given back. With an owner it is this worker that gives up on an admission; while
--       others still own the hold it stays theirs, so that nobody takes it from the worker that Envoy asked next.
-- Returns per group, per request: 1 settled, 0 nothing to do (settled before, or never admitted here), 2 still owned by
-- others, -4 account not loaded.
--
-- It applies only to an open hold, so any number of repetitions settle once, without a set of seen ids. The tombstone
-- it leaves keeps a delayed duplicate of the admission from coming back; whoever settled removes it some seconds later.

local generation = ARGV[1]
local time = redis.call('TIME')
local tombstone = '!' .. string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))

-- What settling changes on each counter: counter, difference, counter, difference, ...
local function differences(hold, used)
  local found = {}
  for counter, meter, units in string.gmatch(hold, '([^;|,]+)|([^|]*)|(%d+)') do
    local difference = (used[meter] or 0) - tonumber(units)
    if difference ~= 0 then
      found[#found + 1] = counter
      found[#found + 1] = difference
    end
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
  local results, rids = {}, {}
  for j = 1, m do rids[j] = ARGV[first + j] end
  if redis.call('HGET', counters, 'gen') ~= generation then
    for j = 1, m do results[j] = -4 end
    return results, first + m + 1
  end

  local known = redis.call('HMGET', holds, unpack(rids))
  local writes, more, by_hold, told = {}, {}, {}, {}
  for j = 1, m do
    local rid, hold = rids[j], known[j]
    if told[rid] then
      results[j] = told[rid] == 2 and 2 or 0  -- the same request twice in one group
    else
      local is_open = hold and string.sub(hold, 1, 1) ~= '!'
      local others = is_open and owner ~= '' and left_to_others(hold, owner)
      writes[#writes + 1] = rid
      writes[#writes + 1] = others or tombstone
      results[j] = others and 2 or is_open and 1 or 0
      told[rid] = results[j]
    end
    if results[j] == 1 then
      -- Holds of one account are mostly the same text.
      by_hold[hold] = by_hold[hold] or differences(hold, used)
      local found = by_hold[hold]
      for i = 1, #found, 2 do more[found[i]] = (more[found[i]] or 0) + found[i + 1] end
    end
  end
  redis.call('HSET', holds, unpack(writes))
  for counter, difference in pairs(more) do
    if difference ~= 0 then redis.call('HINCRBY', counters, counter, string.format('%.0f', difference)) end
  end
  return results, first + m + 1
end

local results, at = {}, 2
for i = 1, #KEYS / 2 do
  results[i], at = settle(KEYS[2 * i - 1], KEYS[2 * i], at)
end
return results
