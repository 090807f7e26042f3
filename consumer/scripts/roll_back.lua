-- Announce a rollback, unless something was announced that the caller has not seen.
--
-- KEYS  1 adapters
-- ARGV  1 the last entry that the caller has seen, 2 event
-- Returns the new entry's id, or false.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest or newest[1] ~= ARGV[1] then
  return false
end
return redis.call('XADD', KEYS[1], '*', 'event', ARGV[2])
