-- Restart all leases: the server's clock was set back, so that earlier deliveries seem to be of the future.
--
-- KEYS  1 lane
-- ARGV  1 group
-- Returns how many.
--
-- A trimmed entry keeps its time, because XCLAIM would drop it silently.
local restarted, from = 0, '-'
repeat
  local page = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 100)
  for _, pending in ipairs(page) do
    local id, owner = pending[1], pending[2]
    from = '(' .. id
    if redis.call('XRANGE', KEYS[1], id, id)[1] then
      redis.call('XCLAIM', KEYS[1], ARGV[1], owner, 0, id, 'JUSTID')
      restarted = restarted + 1
    end
  end
until #page < 100
return restarted
