-- The backend gave an entry back that it had accepted. What holds the slot may be about to end, so the capacity estimate
-- forgets it, unless the backend tells what it holds; the next probe tells. The task waits again at its old place, as its
-- next attempt.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, next (its entry from now on), queued_at, priority,
--          told ({instance, how many it holds at a time}; absent: it does not tell), kept, pause (see told_slots.lua)
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/hold_slot
-- @include queue/remove_entry
-- @include queue/told_slots
-- @include queue/wait
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue = queue_arg, load_queue()
local is_charged = is_charged_for(arg.entry)
local held = remove_entry(queue, arg.entry, arg.owner)
if held then count(RETRY) end
wait(queue, arg.next, arg.owner, arg.queued_at, arg.priority, held, is_charged)
if arg.told then
  note_told_slots(unpack(arg.told))
  count_told_slots(queue)
elseif held then
  queue.l = math.max(0, queue.l - 1)
end
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms }
