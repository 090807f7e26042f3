-- Hand back entries that were not answered, so that the next worker may take them at once. Returns how many were ours.
--
-- A trimmed entry stays as it is, because XCLAIM would drop it silently. It is refused when its lease expires.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 this worker, 3 idle milliseconds to set (longer than any lease), 4 deliveries to subtract: 1, or 0
--       if the entry may be at fault, then entry ids
local ours = 0
for at = 5, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1)[1]
  if pending and pending[2] == ARGV[2] and redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at])[1] then
    local deliveries = math.max(pending[4] - ARGV[4], 0)
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'IDLE', ARGV[3], 'RETRYCOUNT', deliveries, 'JUSTID')
    ours = ours + 1
  end
end
return ours
