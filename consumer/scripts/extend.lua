-- Renew the leases of entries that are still ours. Returns those that are not.
--
-- The lease of a trimmed entry is not renewed, because XCLAIM would drop it silently. It is refused when it expires.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 this worker, then entry ids
local lost = {}
for at = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1)[1]
  if not pending or pending[2] ~= ARGV[2] then
    lost[#lost + 1] = ARGV[at]
  elseif redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at])[1] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'JUSTID')
  end
end
return lost
