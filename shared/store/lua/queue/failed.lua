-- The backend failed an entry, which leaves its slot free. After many in a row it gets a pause, so that the waiting tasks
-- do not all use up their attempts on it.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, grace (how many failures in a row bring no pause),
--          base, most (ms: the first pause and the longest)
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/outage
-- @include queue/remove_entry
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue = queue_arg, load_queue()
local held = remove_entry(queue, arg.entry, arg.owner)
if held then count(RETRY) end
if queue.O then end_failures(queue) end -- it answers
queue.j = nil
if held and (queue.o or 0) <= queue_now then
  queue.d = (queue.d or 0) + 1
  if queue.d > arg.grace then
    queue.l, queue.B = math.min(queue.l, queue.h), nil
    queue.o = queue_now + math.min(arg.most, arg.base * 2 ^ math.min(queue.d - arg.grace - 1, 20))
  end
end
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms }
