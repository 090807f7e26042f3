-- Add the events of one call, unless too many wait already. A repeated call adds nothing and gets the same answer.
--
-- KEYS  1 lane, 2 the answer to this call
-- ARGV  1 group, 2 how many may wait (0: no limit), 3 seconds to remember the answer, then events
-- Returns the id of the first entry, whose successors differ only in their last part; or, as a number, how many wait.
local answer = redis.call('GET', KEYS[2])
if answer then
  redis.call('EXPIRE', KEYS[2], ARGV[3]) -- a write, so that a WAIT after it covers the entries of the first call too
  return answer
end

-- The length is an upper bound. Only if it reaches the limit the group is asked, which has the number since Redis 7.0.
local function waiting(limit)
  local length = redis.call('XLEN', KEYS[1])
  if length >= limit then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
      local group = {}
      for at = 1, #flat, 2 do
        group[flat[at]] = flat[at + 1]
      end
      if group.name == ARGV[1] and group.lag then
        return math.min(length, group.lag + group.pending)
      end
    end
  end
  return length
end

local limit = tonumber(ARGV[2])
if limit > 0 then
  local wait = waiting(limit)
  if wait >= limit then
    return wait
  end
end

local first = redis.call('XADD', KEYS[1], '*', 'event', ARGV[4])
local milliseconds, number = first:match('(%d+)-(%d+)')
for at = 5, #ARGV do
  redis.call('XADD', KEYS[1], string.format('%s-%.0f', milliseconds, number + at - 4), 'event', ARGV[at])
end
redis.call('SET', KEYS[2], first, 'EX', ARGV[3])
return first
