-- The oldest entry whose lease expired.
--
-- KEYS  1 lane
-- ARGV  1 group, 2 lease in milliseconds
-- Returns the server's clock in milliseconds and, where there is such an entry, its id and how often it was delivered.
local now = redis.call('TIME')
local found = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[2], '-', '+', 1)[1] or {}
return { now[1] * 1000 + math.floor(now[2] / 1000), found[1], found[4] }
