-- EXTEND: hold more for a response that is on its way and uses more than was held.
--
-- KEYS  the account's counters hash, its holds hash
-- ARGV  generation, version, rid, n, then n x (counter, least, target, limit)
-- Returns {code, hold}:  1 held, the hold as it is now     -1 not even `least` is left somewhere: nothing changed
--   -3 prepared from another version of the account        -4 this account is not loaded into this server
--   -5 there is no open hold
--
-- Amounts are totals of the hold, not additions: a repetition whose reply was lost changes nothing.

local counters, holds, rid = KEYS[1], KEYS[2], ARGV[3]
local state = redis.call('HMGET', counters, 'gen', 'ver')
if state[1] ~= ARGV[1] then return { -4, '' } end
if state[2] ~= ARGV[2] then return { -3, '' } end
local hold = redis.call('HGET', holds, rid)
if not hold or string.sub(hold, 1, 1) == '!' then return { -5, '' } end

local wanted = {}
for i = 1, tonumber(ARGV[4]) do
  wanted[ARGV[1 + 4 * i]] = {
    least = tonumber(ARGV[2 + 4 * i]), target = tonumber(ARGV[3 + 4 * i]), limit = tonumber(ARGV[4 + 4 * i])
  }
end

-- What each counter has room for; a meter that several limits stand on is held by the tightest of them.
local prefix, rest = string.match(hold, '^([^;]*;)(.*)$')
local parts, by_meter = {}, {}
for counter, meter, units in string.gmatch(rest, '([^|,]+)|([^|]*)|(%d+)') do
  local part = { counter = counter, meter = meter, held = tonumber(units) }
  parts[#parts + 1] = part
  local want = wanted[counter]
  if want then
    local reach = want.target
    if want.limit >= 0 then
      local room = math.max(want.limit - tonumber(redis.call('HGET', counters, counter) or 0), 0)
      reach = math.min(reach, part.held + room)
    end
    if reach < want.least then return { -1, hold } end
    by_meter[meter] = math.min(by_meter[meter] or reach, reach)
  end
end

local texts = {}
for i, part in ipairs(parts) do
  local units = math.max(part.held, by_meter[part.meter] or 0)
  if units > part.held then
    redis.call('HINCRBY', counters, part.counter, string.format('%.0f', units - part.held))
  end
  texts[i] = part.counter .. '|' .. part.meter .. '|' .. string.format('%.0f', units)
end
hold = prefix .. table.concat(texts, ',')
redis.call('HSET', holds, rid, hold)
return { 1, hold }
