-- RELEASE: give up the rebuild of an account.
-- KEYS  rebuild token      ARGV  token
-- Returns 1 when the token was ours, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
