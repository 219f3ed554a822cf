-- BEGIN: claim the rebuild of an account that is not loaded.
--
-- KEYS  rebuild token, counters hash, account document
-- ARGV  token, prefix of tokens that may be taken over (our own, from before a crash), ttl_ms, generation
-- Returns 1 when the token is ours, 0 when somebody else has it, and the document when the account is loaded already.
--
-- While the token is ours nobody else can load the account, so it stays unloaded until our LOAD: nothing is admitted or
-- settled meanwhile that the rebuilt state would not know of.

if redis.call('HGET', KEYS[2], 'gen') == ARGV[4] then
  local document = redis.call('GET', KEYS[3])
  if document then return document end
  redis.call('HDEL', KEYS[2], 'gen')
end
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
