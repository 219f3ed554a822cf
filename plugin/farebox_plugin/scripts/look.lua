-- LOOK: an account's admission state at one moment.
-- KEYS  counters hash, holds hash
-- Returns {counters as field, value, ...; holds as rid, hold, ...}
return { redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2]) }
