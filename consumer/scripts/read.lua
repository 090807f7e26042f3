-- Read new entries, up to a number or a size: an entry may be large, and all that is read is held in memory.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 this worker, 3 how many at most, 4 bytes after which no more is read
-- Returns for each entry: id, fields.
local read, bytes = {}, 0
local most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
while #read < most and bytes < most_bytes do
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', math.min(8, most - #read), 'STREAMS', KEYS[1], '>')
  if not reply then
    break
  end
  for _, entry in ipairs(reply[1][2]) do
    read[#read + 1] = entry
    for _, value in ipairs(entry[2]) do
      bytes = bytes + #value
    end
  end
end
return read
