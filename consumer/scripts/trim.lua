-- Remove what every group has acknowledged from a stream, a part at a time.
--
-- KEYS  1 stream
-- ARGV  1 milliseconds for which entries are kept in any case; '' to keep only what a group needs, or everything if
--       there is no group
-- Returns how many entries were removed. Call again until it is 0, so that Redis can serve others in between.
local PART = 5000

-- Ids are pairs of 64-bit numbers, too large for Lua's numbers: they are compared as texts of equal length.
local function sortable(id)
  local milliseconds, number = id:match('(%d+)-(%d+)')
  return ('0'):rep(20 - #milliseconds) .. milliseconds .. ('0'):rep(20 - #number) .. number
end

local function lower(id, other)
  return (not id or sortable(other) < sortable(id)) and other or id
end

local function after(id)
  local milliseconds, number = id:match('(%d+)-(%d+)')
  return tonumber(number) < 2 ^ 52 and string.format('%s-%.0f', milliseconds, number + 1) or id
end

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local floor = nil
if ARGV[1] ~= '' then
  local now = redis.call('TIME') -- of the server, as in the ids
  floor = string.format('%.0f-0', math.max(0, now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[1]))
end
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for at = 1, #flat, 2 do
    group[flat[at]] = flat[at + 1]
  end
  floor = lower(floor, after(group['last-delivered-id']))
  local oldest_pending = redis.call('XPENDING', KEYS[1], group.name)[2]
  if oldest_pending then
    floor = lower(floor, oldest_pending)
  end
end
if not floor then
  return 0
end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', floor, 'LIMIT', PART)
if removed == 0 then
  removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', floor) -- the rest, which is part of one node
end
return removed
