-- LOAD: put an account's rebuilt state in place, whole, unless somebody else was first.
--
-- KEYS  counters hash, holds hash, rebuild token, account document
-- ARGV  generation, token, version, document, n, then n x (counter, units), m, then m x (rid, hold)
-- Returns 1 loaded, 0 was loaded meanwhile, -1 the token is no longer ours, -2 a newer version was published meanwhile.
--
-- Rate-limit clocks outlive a reload: they are not in any ledger, and forgetting one would allow a burst.

if redis.call('GET', KEYS[3]) ~= ARGV[2] then return -1 end
local version = redis.call('HGET', KEYS[1], 'ver')
if redis.call('HGET', KEYS[1], 'gen') == ARGV[1] then
  redis.call('DEL', KEYS[3])
  return 0
end
if version and tonumber(version) > tonumber(ARGV[3]) then return -2 end

local state = redis.call('HGETALL', KEYS[1])
local keep = {}
for i = 1, #state, 2 do
  if string.sub(state[i], 1, 2) == 'g:' then keep[state[i]] = state[i + 1] end
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('SET', KEYS[4], ARGV[4])
redis.call('HSET', KEYS[1], 'gen', ARGV[1], 'ver', ARGV[3])
for field, value in pairs(keep) do redis.call('HSET', KEYS[1], field, value) end
local at = 5
for i = 1, tonumber(ARGV[at]) do redis.call('HSET', KEYS[1], ARGV[at + 2 * i - 1], ARGV[at + 2 * i]) end
at = at + 1 + 2 * tonumber(ARGV[at])
for i = 1, tonumber(ARGV[at]) do redis.call('HSET', KEYS[2], ARGV[at + 2 * i - 1], ARGV[at + 2 * i]) end
return 1
