-- SETTLE: turn a batch of holds into what was really used.
--
-- KEYS  per request: the account's counters hash, its holds hash
-- ARGV  generation, then per request: rid, owner, n, then n x (meter, units)
--       n = 0 voids: everything held is given back. With an owner it is this worker that gives up on an admission; while
--       others still own the hold it stays theirs, so that nobody takes it from the worker that Envoy asked next.
-- Returns per request: 1 settled, 0 nothing to do (settled before, or never admitted here), 2 still owned by others,
-- -4 account not loaded.
--
-- It applies only to an open hold, so any number of repetitions settle once, without a set of seen ids. The tombstone
-- it leaves keeps a delayed duplicate of the admission from coming back; whoever settled removes it some seconds later.

local generation = ARGV[1]
local time = redis.call('TIME')
local tombstone = '!' .. string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))

local function settle(counters, holds, at)
  local rid, owner, n = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if redis.call('HGET', counters, 'gen') ~= generation then return -4 end
  local hold = redis.call('HGET', holds, rid)
  if hold and owner ~= '' and string.sub(hold, 1, 1) ~= '!' then
    local suspect, owners, rest = string.match(hold, '^([?]?)([^;]*)(;.*)$')
    local others = {}
    for each in string.gmatch(owners, '[^+]+') do
      if each ~= owner then others[#others + 1] = each end
    end
    if #others > 0 then
      redis.call('HSET', holds, rid, suspect .. table.concat(others, '+') .. rest)
      return 2
    end
  end
  redis.call('HSET', holds, rid, tombstone)
  if not hold or string.sub(hold, 1, 1) == '!' then return 0 end
  local used = {}
  for i = 1, n do used[ARGV[at + 1 + 2 * i]] = tonumber(ARGV[at + 2 + 2 * i]) end
  for counter, meter, units in string.gmatch(hold, '([^;|,]+)|([^|]*)|(%d+)') do
    local difference = (used[meter] or 0) - tonumber(units)
    if difference ~= 0 then redis.call('HINCRBY', counters, counter, string.format('%.0f', difference)) end
  end
  return 1
end

local results, at = {}, 2
for i = 1, #KEYS / 2 do
  results[i] = settle(KEYS[2 * i - 1], KEYS[2 * i], at)
  at = at + 3 + 2 * tonumber(ARGV[at + 2])
end
return results
