-- What of a lane is not answered. Reads only.
--
-- KEYS  1 lane
-- ARGV  1 group
-- Returns lag (entries nobody has read), pending (entries in a worker's hands), and for how many milliseconds the
-- oldest of both has been there; nothing where there is no such group.
--
-- Redis 6.2 knows no lag, and later ones forget it when an entry was deleted. Then it is counted, on the shorter side of
-- the last delivered entry: exact where fewer than 500 are not read, or fewer than 500 that were read are not trimmed.
-- Otherwise it is too high: what was read and is not trimmed counts as lag but for 500.
local MOST_COUNTED, MOST_BYTES = 500, 1048576

local function find_group()
  if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then
    return nil
  end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = {}
    for at = 1, #flat, 2 do
      group[flat[at]] = flat[at + 1]
    end
    if group.name == ARGV[1] then
      return group
    end
  end
end

-- How many entries there are, and whether that is all: what takes long, since their texts pass through here, is left.
local function count(from, to)
  local counted, bytes = 0, 0
  while counted < MOST_COUNTED and bytes < MOST_BYTES do
    local page = redis.call('XRANGE', KEYS[1], from, to, 'COUNT', 8)
    counted = counted + #page
    if #page < 8 then
      return counted, true
    end
    for _, entry in ipairs(page) do
      for _, value in ipairs(entry[2]) do
        bytes = bytes + #value
      end
    end
    from = '(' .. page[8][1]
  end
  return counted, false
end

local function count_lag(delivered)
  local unread, all = count('(' .. delivered, '+')
  return all and unread or redis.call('XLEN', KEYS[1]) - count('-', delivered)
end

local group = find_group()
if not group then
  return nil
end
local delivered = group['last-delivered-id']
local lag = group.lag or count_lag(delivered)
local oldest = redis.call('XPENDING', KEYS[1], ARGV[1])[2]
if not oldest and lag > 0 then
  local unread = redis.call('XRANGE', KEYS[1], '(' .. delivered, '+', 'COUNT', 1)[1]
  oldest = unread and unread[1]
end
local age = 0
if oldest then
  local time = redis.call('TIME')
  age = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - string.match(oldest, '^%d+'))
end
return { lag, group.pending, age }
