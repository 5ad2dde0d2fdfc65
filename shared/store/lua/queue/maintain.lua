-- What the reconciler does for a queue at each run: grants what was left, and finds the slots that are to be checked. The
-- operator's settings and their record are made to agree.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: again (ms until an entry that was found is checked again),
--          most (how many entries of each kind are found at most), early (by how many ms an entry that awaits a claim
--          is found before its time), kept, pause (see told_slots.lua)
-- Returns  {granted, ms, {entries whose slot is to be checked}, 0 if the queue is known to be whole, else which loss,
--          {the same of entries that were published and await a claim, as far as the queue knows}, how many wait;
--          and where an owner's may hold only so many slots, up to `most` that hold one and whose owner is not known}
-- @include queue/grant_slots
-- @include queue/hold_slot
-- @include queue/keep_settings
-- @include queue/remove_entry
-- @include queue/told_slots
local LONGEST_WINDOW_MS = 86400000

begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue = queue_arg, load_queue()
mend_settings(queue)
if queue.w ~= count_waiting() then recount(queue) end
if queue.G and queue.G <= queue_now then count_told_slots(queue) end
-- An entry whose name is none was written by somebody else.
local function entries_between(low, high)
  local entries = {}
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', held_key, low, high, 'LIMIT', 0, arg.most)) do
    if string.find(entry, '^[!-~]+%.%d+$') then
      entries[#entries + 1] = entry
    else
      remove_entry(queue, entry, '')
    end
  end
  return entries
end

local due = entries_between('-inf', queue_now)
local latest = AWAITS_CLAIM_MS + queue_now + arg.early
local unclaimed = entries_between(AWAITS_CLAIM_MS, latest)
for _, found in ipairs({ due, unclaimed }) do
  for _, entry in ipairs(found) do redis.call('ZADD', held_key, 'XX', queue_now + arg.again, entry) end
end
-- While only some processes know of a rate, it goes on with what it had.
local kept = queue.L
if kept and not (queue.R or queue_settings().rate) and (kept.v or 0) < queue_now - LONGEST_WINDOW_MS then queue.L = nil end
local without_owner = owner_bound and owner_bound.entries_without_owner(arg.most)
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms, due, queue.k and 0 or queue.x, unclaimed, queue.w, without_owner }
