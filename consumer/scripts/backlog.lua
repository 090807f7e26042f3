-- The unanswered entries of each lane. Reads only.
--
-- KEYS  lanes
-- ARGV  1 group
-- Returns for each lane: lag (entries nobody has read), pending (entries that a worker holds), and the age in
-- milliseconds of the oldest of both; false if there is no such group.
--
-- Redis 6.2 has no lag, and later versions lose it when an entry is deleted. Then it is counted, on the shorter side of
-- the last delivered entry. The count is exact if fewer than 200 entries are unread, or fewer than 200 read entries are
-- not yet trimmed. Otherwise it is too high: read entries that are not trimmed count as lag, except for 200 of them.
local MOST_COUNTED, MOST_BYTES = 200, 1048576

local function find_group(lane)
  if redis.call('TYPE', lane).ok ~= 'stream' then
    return nil
  end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', lane)) do
    local group = {}
    for at = 1, #flat, 2 do
      group[flat[at]] = flat[at + 1]
    end
    if group.name == ARGV[1] then
      return group
    end
  end
end

-- How many entries there are, and whether all were counted: counting stops early, because it reads their texts.
local function count(lane, from, to)
  local counted, bytes = 0, 0
  while counted < MOST_COUNTED and bytes < MOST_BYTES do
    local page = redis.call('XRANGE', lane, from, to, 'COUNT', 8)
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

local function count_lag(lane, delivered)
  local unread, all = count(lane, '(' .. delivered, '+')
  return all and unread or redis.call('XLEN', lane) - count(lane, '-', delivered)
end

local function find_oldest(lane, delivered)
  local pending = redis.call('XPENDING', lane, ARGV[1])[2]
  local unread = not pending and redis.call('XRANGE', lane, '(' .. delivered, '+', 'COUNT', 1)[1]
  return pending or unread and unread[1]
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local backlogs = {}
for at, lane in ipairs(KEYS) do
  local group = find_group(lane)
  backlogs[at] = false
  if group then
    local delivered = group['last-delivered-id']
    local oldest = find_oldest(lane, delivered)
    local age = oldest and math.max(0, now - string.match(oldest, '^%d+')) or 0
    backlogs[at] = { group.lag or count_lag(lane, delivered), group.pending, age }
  end
end
return backlogs
