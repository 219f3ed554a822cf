-- ADMIT: decide a batch of requests, each all or nothing across its counters, and hold what was admitted.
--
-- KEYS  per request: the account's counters hash, its holds hash              (see farebox/v1/layout.py)
-- ARGV  generation, not_after_ms, then per request:
--       rid, version, hold, rate_field, emission_us, tolerance_us, n, then n x (counter, units, limit)
--       limit -1 = count only. rate_field '' = no rate limit. hold = '<owners>;<admitted_ms>;<counter>|<meter>|<units>,...'
--       Units below zero may be held in part: as many as there is room for, at least one.
-- Returns {now_ms, result per request}; a result is {code, detail, committed units of each counter}:
--    1 admitted            2 admitted before (the same rid again)
--    3 either, where something could be held in part: behind the committed units stands the hold
--   -1 over a limit: detail = which counter (from 1)     -2 rate limited: detail = microseconds to wait
--   -3 prepared from another version of the account      -4 this account is not loaded into this server
--   -5 settled or voided already                         -6 too late: whoever sent this has given up
--
-- A batch that was delayed on the way must not admit anybody after its sender gave up and told the client no; not_after
-- bounds that delay, and with it the time that tombstones have to live.

local generation, not_after = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)
local results = { now_ms }
local late = now_ms > not_after

local function release_suspect(counters, holds, rid, hold)
  for counter, units in string.gmatch(hold, '([^;|,]+)|[^|]*|(%d+)') do
    redis.call('HINCRBY', counters, counter, -tonumber(units))
  end
  redis.call('HDEL', holds, rid)
end

-- Shrink `hold`: of each meter no more than the least that any of its counters had room for.
local function in_part(hold, held)
  local prefix, parts = string.match(hold, '^([^;]*;[^;]*;)(.*)$')
  local least, names, i = {}, {}, 0
  for counter, meter in string.gmatch(parts, '([^|,]+)|([^|]*)|%d+') do
    i = i + 1
    names[i] = { counter, meter }
    least[meter] = math.min(least[meter] or held[i], held[i])
  end
  local shrunk = {}
  for j = 1, i do
    held[j] = least[names[j][2]]
    shrunk[j] = names[j][1] .. '|' .. names[j][2] .. '|' .. string.format('%.0f', held[j])
  end
  return prefix .. table.concat(shrunk, ',')
end

local function admit(counters, holds, at)
  local rid, version, hold, rate_field = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local n = tonumber(ARGV[at + 6])
  local fields = { 'gen', 'ver', rate_field }
  local divisible = false
  for i = 1, n do
    fields[3 + i] = ARGV[at + 4 + 3 * i]
    if tonumber(ARGV[at + 5 + 3 * i]) < 0 then divisible = true end
  end

  local state = redis.call('HMGET', counters, unpack(fields))
  if state[1] ~= generation then return { -4, 0 } end
  local known = redis.call('HGET', holds, rid)
  if known then
    local mark = string.sub(known, 1, 1)
    if mark == '!' then return { -5, 0 } end
    if mark ~= '?' then
      -- Envoy asked again, elsewhere. Each worker that was asked may give up; the last one gives the hold back.
      local owner, owners, rest = string.match(hold, '^[^;]*'), string.match(known, '^([^;]*)(;.*)$')
      if not string.find('+' .. owners .. '+', '+' .. owner .. '+', 1, true) then
        redis.call('HSET', holds, rid, owners .. '+' .. owner .. rest)
      end
      local reply = { 2, 0 }
      for i = 1, n do reply[2 + i] = tonumber(state[3 + i] or 0) end
      if divisible then reply[1], reply[3 + n] = 3, known end
      return reply
    end
    -- Rebuilt from a bare intent, never known to have been admitted: it must pass the limits like anybody else.
    release_suspect(counters, holds, rid, known)
    state = redis.call('HMGET', counters, unpack(fields))
  end
  if state[2] ~= version then return { -3, 0 } end

  local held, is_less = {}, false
  for i = 1, n do
    local committed = tonumber(state[3 + i] or 0)
    local units, limit = tonumber(ARGV[at + 5 + 3 * i]), tonumber(ARGV[at + 6 + 3 * i])
    held[i] = math.abs(units)
    -- A check that costs nothing still needs room for one: an exhausted meter refuses.
    if limit >= 0 and committed + math.max(held[i], 1) > limit then
      if units >= 0 or committed >= limit then
        local reply = { -1, i }
        for j = 1, n do reply[2 + j] = tonumber(state[3 + j] or 0) end
        return reply
      end
      held[i], is_less = limit - committed, true
    end
  end
  if is_less then hold = in_part(hold, held) end
  local reply = { 1, 0 }
  for i = 1, n do reply[2 + i] = tonumber(state[3 + i] or 0) + held[i] end
  if divisible then reply[1], reply[3 + n] = 3, hold end

  if rate_field ~= '' then
    -- GCRA: tat is when the bucket would be empty again; a request may come up to `tolerance` before its turn.
    local emission, tolerance = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
    local tat = math.max(tonumber(state[3] or 0), now_us) + emission
    if tat - now_us > tolerance then return { -2, tat - now_us - tolerance } end
    redis.call('HSET', counters, rate_field, string.format('%.0f', tat))
    reply[2] = math.floor((now_us + tolerance - tat) / emission)
  end

  for i = 1, n do
    if held[i] > 0 then redis.call('HINCRBY', counters, fields[3 + i], string.format('%.0f', held[i])) end
  end
  redis.call('HSET', holds, rid, hold)
  return reply
end

local at = 3
for i = 1, #KEYS / 2 do
  if late then
    results[1 + i] = { -6, 0 }
  else
    results[1 + i] = admit(KEYS[2 * i - 1], KEYS[2 * i], at)
  end
  at = at + 7 + 3 * tonumber(ARGV[at + 6])
end
return results
