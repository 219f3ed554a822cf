-- BEGIN: claim the rebuild of an account.
-- KEYS  rebuild token      ARGV  token, prefix of tokens that may be taken over (our own, from before a crash), ttl_ms
-- Returns 1 when the token is ours, else 0.
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
