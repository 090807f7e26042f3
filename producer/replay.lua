-- Send a refused entry to its lane again, once.
--
-- KEYS  1 lane, 2 replayed refusals, each with its new entry
-- ARGV  1 the refusal, 2 seconds to remember it, then the entry's fields and values
-- Returns 1 and the new entry's id, or 0 and the id of the entry as which it was sent before.
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then
  return { 0, before }
end
local entry_id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
redis.call('HSET', KEYS[2], ARGV[1], entry_id)
redis.call('EXPIRE', KEYS[2], ARGV[2])
return { 1, entry_id }
