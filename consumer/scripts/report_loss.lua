-- Publish one refusal for entries that were removed before the group read them, and correct the group's counter.
--
-- KEYS  1 lane, 2 refusals, 3 identities seen now, 4 seen before, 5 seen by workers whose clocks are ahead
-- ARGV  1 group, 2 last of the removed entries, or '' if only their number is known, 3 identity, 4 seconds to keep
--       identities, 5 event
-- Returns 1 if it was published, 0 if another worker had done so.
local PAGE, MOST_PAGES = 1000, 10

local function pairs_of(flat)
  local named = {}
  for at = 1, #flat, 2 do
    named[flat[at]] = flat[at + 1]
  end
  return named
end

local stream, group = pairs_of(redis.call('XINFO', 'STREAM', KEYS[1])), nil
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  group = pairs_of(flat).name == ARGV[1] and pairs_of(flat) or group
end
local removed = stream['entries-added'] - stream.length
local known = false
for key = 3, 5 do
  known = known or redis.call('SISMEMBER', KEYS[key], ARGV[3]) == 1
end
if ARGV[2] == '' then
  known = not group or not group['entries-read'] or group['entries-read'] >= removed
end
if known then
  return 0
end

redis.call('XADD', KEYS[2], '*', 'event', ARGV[5])
if ARGV[2] ~= '' then
  redis.call('SADD', KEYS[3], ARGV[3])
  redis.call('EXPIRE', KEYS[3], ARGV[4])
  return 1
end
-- The server still counts the removed entries as unread. Read are all that were removed, and those that are there.
local read, from = removed, '-'
for _ = 1, MOST_PAGES do
  local page = redis.call('XRANGE', KEYS[1], from, group['last-delivered-id'], 'COUNT', PAGE)
  read = read + #page
  if #page < PAGE then
    break
  end
  from = '(' .. page[#page][1]
end
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], group['last-delivered-id'], 'ENTRIESREAD', read)
return 1
