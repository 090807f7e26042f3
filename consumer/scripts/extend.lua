-- Renew the lease of entries that are still ours. Returns how many were.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 this worker, then entry ids
local ours = 0
for at = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1)[1]
  if pending and pending[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'JUSTID')
    ours = ours + 1
  end
end
return ours
