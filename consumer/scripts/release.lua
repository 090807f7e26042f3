-- Hand back entries that were not answered: the next worker may take them at once, and the delivery does not count.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 this worker, 3 idle milliseconds to set (past every lease), then entry ids
local ours = 0
for at = 4, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1)[1]
  if pending and pending[2] == ARGV[2] then
    local before = math.max(pending[4] - 1, 0)
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'IDLE', ARGV[3], 'RETRYCOUNT', before, 'JUSTID')
    ours = ours + 1
  end
end
return ours
