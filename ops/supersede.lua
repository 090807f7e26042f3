-- Publishes a result in the place of an earlier one, once.
--
-- KEYS  1 predictions   2 the set of what was published by this script
-- ARGV  1 id of the new event   2 the event   3 seconds for which it is remembered
-- Returns the entry, or false where it was published before.
if redis.call('SADD', KEYS[2], ARGV[1]) == 0 then
  return false
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
return redis.call('XADD', KEYS[1], '*', 'event', ARGV[2])
