-- Record a worker's heartbeat, and remove workers that have been silent for long.
--
-- KEYS  1 the workers, by their last heartbeat
-- ARGV  1 this worker, 2 milliseconds of silence after which a worker counts as gone
-- Returns the living workers.
--
-- All times are of the server's clock, so the clocks of the workers do not matter.
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', milliseconds), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', milliseconds - ARGV[2]))
-- If the clock was set back, earlier heartbeats would seem to be of the future.
for _, other in ipairs(redis.call('ZRANGE', KEYS[1], string.format('(%.0f', milliseconds), '+inf', 'BYSCORE')) do
  redis.call('ZADD', KEYS[1], string.format('%.0f', milliseconds), other)
end
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
return redis.call('ZRANGE', KEYS[1], 0, -1)
