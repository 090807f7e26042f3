-- Take over entries whose worker let their lease run out.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 this worker, 3 lease in milliseconds, 4 how many at most
-- Returns for each entry: id, deliveries before this one, the worker it was with, fields (false where trimmed away).
--
-- XPENDING and XCLAIM, not XAUTOCLAIM: that raises the delivery count of everything it passes.
-- A trimmed entry stays in its owner's name until its refusal is committed: claiming it would drop it in silence.
local taken = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])) do
  local id, owner, deliveries = pending[1], pending[2], pending[4]
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID', 'RETRYCOUNT', deliveries + 1)
  end
  taken[#taken + 1] = { id, deliveries, owner, entry and entry[2] or false }
end
return taken
