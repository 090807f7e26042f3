-- Answer a batch: acknowledge each entry, and publish only where the acknowledgement was still ours.
--
-- KEYS  1 interactive lane, 2 bulk lane, 3 predictions, 4 refusals, 5 identities seen now, 6 seen before,
--       7 seen by workers whose clocks are ahead
-- ARGV  1 group, 2 seconds to keep identities, then for each entry five values:
--       lane (1 or 2), entry id, output (3 or 4), identity ('' to publish in any case), event
-- Returns one number per entry: 1 published, 0 lost to another worker, 2 a duplicate submission, or refused before.
--
-- A result is remembered by its identity, a refusal by its entry: the submission may come again, mended or replayed.
-- If the group is lost and entries are read again, a refused entry gets no result, and an answered one no refusal.
--
-- An error does not undo what a script has written, so everything that can fail is checked before the first write.
local stream_or_none = { stream = true, none = true }
for key = 1, 4 do
  if not stream_or_none[redis.call('TYPE', KEYS[key]).ok] then
    return redis.error_reply('WRONGTYPE ' .. KEYS[key] .. ' is not a stream: rename or delete it')
  end
end
local ahead = false -- rarely true, and then for as long as the clocks differ
for key = 5, 7 do
  local kind = redis.call('TYPE', KEYS[key]).ok
  if kind ~= 'set' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[key] .. ' is not a set: rename or delete it')
  end
  ahead = key == 7 and kind == 'set'
end

local function was_seen(member)
  return redis.call('SISMEMBER', KEYS[6], member) == 1 or (ahead and redis.call('SISMEMBER', KEYS[7], member) == 1)
end

local function is_known(member)
  return redis.call('SISMEMBER', KEYS[5], member) == 1 or was_seen(member)
end

local REFUSED = 'refused'
local any_refused = is_known(REFUSED) -- rarely true; only then each entry is looked up

local function refused(lane, id)
  return REFUSED .. lane .. ' ' .. id
end

local outcomes = {}
for at = 3, #ARGV, 5 do
  local lane, id, output, identity, event = KEYS[tonumber(ARGV[at])], ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])], ARGV[at + 3], ARGV[at + 4]
  local outcome = 1
  if redis.call('XACK', lane, ARGV[1], id) == 0 then
    outcome = 0
  elseif any_refused and is_known(refused(ARGV[at], id)) then
    outcome = 2
  elseif output == KEYS[4] then
    if identity ~= '' and is_known(identity) then
      outcome = 2
    else
      redis.call('SADD', KEYS[5], REFUSED, refused(ARGV[at], id))
    end
  elseif identity ~= '' then
    if was_seen(identity) or redis.call('SADD', KEYS[5], identity) == 0 then
      outcome = 2
    end
  end
  if outcome == 1 then
    redis.call('XADD', output, '*', 'event', event)
  end
  outcomes[#outcomes + 1] = outcome
end
redis.call('EXPIRE', KEYS[5], ARGV[2])
return outcomes
