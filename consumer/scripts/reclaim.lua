-- Take over entries whose lease expired.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 this worker, 3 lease in milliseconds, 4 most entries, 5 bytes after which no more are taken,
--       6 and 7 the fewest and the most deliveries of the entries to take
-- Returns for each entry: id, deliveries before this one, the worker that had it, fields (false if trimmed).
--
-- XPENDING and XCLAIM, not XAUTOCLAIM, which raises the delivery count of everything that it scans.
-- A trimmed entry keeps its owner until its refusal is committed, because claiming it would drop it silently.
local taken, bytes, from = {}, 0, '-'
local most, most_bytes, least_deliveries, most_deliveries = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
while #taken < most and bytes < most_bytes do
  local page = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], from, '+', 100)
  for _, pending in ipairs(page) do
    local id, owner, deliveries = pending[1], pending[2], pending[4]
    from = '(' .. id
    if deliveries >= least_deliveries and deliveries <= most_deliveries and #taken < most and bytes < most_bytes then
      local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
      if entry then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID', 'RETRYCOUNT', deliveries + 1)
        for _, value in ipairs(entry[2]) do
          bytes = bytes + #value
        end
      end
      taken[#taken + 1] = { id, deliveries, owner, entry and entry[2] or false }
    end
  end
  if #page < 100 then
    break
  end
end
return taken
