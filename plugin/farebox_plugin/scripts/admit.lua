-- ADMIT: decide a batch of requests, each all or nothing across its counters, and hold what was admitted.
--
-- Requests that are held to the same terms for the same units come as one group, and are decided one after the other:
-- the store reads and writes once for all of them. A busy account is one group a turn.
--
-- KEYS  per group: the account's counters hash, its holds hash                (see farebox/v1/layout.py)
-- ARGV  generation, not_after_ms, then per group:
--       version, rate_field, emission_us, tolerance_us, hold, n, then n x (counter, units, limit), m, then m x rid
--       limit -1 = count only. rate_field '' = no rate limit. hold = '<owner>;<counter>|<meter>|<units>,...'
--       Units below zero may be held in part: as many as there is room for, at least one.
-- Returns {now_ms, results per group}; a group's results are flat, per request: code, detail, committed units of each
-- counter. Where units may be held in part, the hold stands behind them.
--    1 admitted            2 admitted before (the same rid again), by another worker      3 by this one, at least
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
local late = now_ms > not_after

-- Whole, however large: Lua would write 1e+15.
local function whole(number) return string.format('%.0f', number) end

-- Shrink `hold`: of each meter no more than the least that any of its counters had room for.
local function in_part(hold, held)
  local prefix, parts = string.match(hold, '^([^;]*;)(.*)$')
  local least, names, i = {}, {}, 0
  for counter, meter in string.gmatch(parts, '([^|,]+)|([^|]*)|%d+') do
    i = i + 1
    names[i] = { counter, meter }
    least[meter] = math.min(least[meter] or held[i], held[i])
  end
  local shrunk = {}
  for j = 1, i do
    held[j] = least[names[j][2]]
    shrunk[j] = names[j][1] .. '|' .. names[j][2] .. '|' .. whole(held[j])
  end
  return prefix .. table.concat(shrunk, ',')
end

local function admit(counters, holds, at)
  local version, rate_field, hold = ARGV[at], ARGV[at + 1], ARGV[at + 4]
  local emission, tolerance = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local n = tonumber(ARGV[at + 5])
  local fields, place, units, limit, divisible = { 'gen', 'ver', rate_field }, {}, {}, {}, false
  local all, room = {}, {}  -- what is held of each counter where nothing is short, and what has to be left for that
  for i = 1, n do
    fields[3 + i] = ARGV[at + 3 + 3 * i]
    place[fields[3 + i]] = i
    units[i], limit[i] = tonumber(ARGV[at + 4 + 3 * i]), tonumber(ARGV[at + 5 + 3 * i])
    if units[i] < 0 then divisible = true end
    all[i] = math.abs(units[i])
    room[i] = math.max(all[i], 1)  -- a check that costs nothing still needs room for one: an exhausted meter refuses
  end
  local first = at + 6 + 3 * n
  local m = tonumber(ARGV[first])

  local results, filled = {}, 0
  local committed, more, writes, written = {}, {}, {}, 0
  local function answer(code, detail, held_text)
    results[filled + 1], results[filled + 2] = code, detail
    for i = 1, n do results[filled + 2 + i] = committed[i] or 0 end
    filled = filled + 2 + n
    if divisible then
      filled = filled + 1
      results[filled] = held_text or ''
    end
  end

  local state = redis.call('HMGET', counters, unpack(fields))
  if late or state[1] ~= generation then
    for _ = 1, m do answer(late and -6 or -4, 0) end
    return results, first + m + 1
  end
  local known = redis.call('HMGET', holds, unpack(ARGV, first + 1, first + m))
  -- rid -> its hold, false for none any more: the same request twice in one group is one request.
  local decided = {}
  local tat = tonumber(state[3] or 0)
  for i = 1, n do committed[i], more[i] = tonumber(state[3 + i] or 0), 0 end

  -- Rebuilt from a bare intent, never known to have been admitted: it must pass the limits like anybody else.
  local function release_suspect(rid, suspect)
    for counter, held in string.gmatch(suspect, '([^;|,]+)|[^|]*|(%d+)') do
      redis.call('HINCRBY', counters, counter, -tonumber(held))
      local i = place[counter]
      if i then committed[i] = committed[i] - tonumber(held) end
    end
    redis.call('HDEL', holds, rid)
    decided[rid] = false
  end

  local function decide(rid, known_hold)
    local mark = known_hold and string.sub(known_hold, 1, 1)
    if mark == '!' then return answer(-5, 0) end
    if known_hold and mark ~= '?' then
      -- Envoy asked again, elsewhere. Each worker that was asked may give up; the last one gives the hold back.
      local owner, owners, rest = string.match(hold, '^[^;]*'), string.match(known_hold, '^([^;]*)(;.*)$')
      if string.find('+' .. owners .. '+', '+' .. owner .. '+', 1, true) then return answer(3, 0, known_hold) end
      redis.call('HSET', holds, rid, owners .. '+' .. owner .. rest)
      return answer(2, 0, known_hold)
    end
    if known_hold then release_suspect(rid, known_hold) end
    if state[2] ~= version then return answer(-3, 0) end

    local held = all
    for i = 1, n do
      if limit[i] >= 0 and committed[i] + room[i] > limit[i] then
        if units[i] >= 0 or committed[i] >= limit[i] then return answer(-1, i) end
        if held == all then held = { unpack(all) } end
        held[i] = limit[i] - committed[i]
      end
    end
    local left = 0
    if rate_field ~= '' then
      -- GCRA: tat is when the bucket would be empty again; a request may come up to `tolerance` before its turn.
      local next_tat = math.max(tat, now_us) + emission
      if next_tat - now_us > tolerance then return answer(-2, next_tat - now_us - tolerance) end
      tat = next_tat
      left = math.floor((now_us + tolerance - tat) / emission)
    end
    local own = held == all and hold or in_part(hold, held)
    for i = 1, n do committed[i], more[i] = committed[i] + held[i], more[i] + held[i] end
    written = written + 2
    writes[written - 1], writes[written] = rid, own
    decided[rid] = own
    answer(1, left, own)
  end

  for j = 1, m do
    local rid = ARGV[first + j]
    local before = decided[rid]
    if before == nil then before = known[j] end
    decide(rid, before)
  end
  if written > 0 then
    for i = 1, n do
      if more[i] > 0 then redis.call('HINCRBY', counters, fields[3 + i], whole(more[i])) end
    end
    redis.call('HSET', holds, unpack(writes))
    if rate_field ~= '' then redis.call('HSET', counters, rate_field, whole(tat)) end
  end
  return results, first + m + 1
end

local results, at = { now_ms }, 3
for i = 1, #KEYS / 2 do
  results[1 + i], at = admit(KEYS[2 * i - 1], KEYS[2 * i], at)
end
return results
