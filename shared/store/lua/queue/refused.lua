-- The backend had no room for an entry: the capacity estimate is what it holds without it, and there is no probe for a
-- while. That ends a search. The task waits again at its old place, as its next attempt.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, next (its entry from now on), queued_at, priority,
--          after (ms that the backend asks to be left alone; 0: it says nothing), most (ms to wait at most if it does not)
-- Returns  {granted, ms}, see grant_slots.lua
--
-- Meanwhile the slot that a finished task frees is granted all the same: its end is newer than the refusal.
-- @include queue/count
-- @include queue/first_delay_ms
-- @include queue/grant_slots
-- @include queue/hold_slot
-- @include queue/outage
-- @include queue/remove_entry
-- @include queue/settle_ms
-- @include queue/wait
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue = queue_arg, load_queue()
local is_probe = queue.p == arg.entry
-- One of a search that a refusal has ended already: it has the same lesson.
local is_late = queue.Q and queue.Q[arg.entry] and not queue.B
-- Also if another entry got this one's slot: that one is the probe, or was a moment ago.
local refuses_probe = is_probe or (queue.a or 0) > queue_now or queue.B and (queue.p or queue.Q)
local is_charged = is_charged_for(arg.entry)
local held = remove_entry(queue, arg.entry, arg.owner)
if held then count(RETRY) end
wait(queue, arg.next, arg.owner, arg.queued_at, arg.priority, held, is_charged)
if queue.d then end_failures(queue) end
queue.j = nil
if queue.B and queue.p then
  -- The search is over. Its probes are answered all the same.
  queue.Q = queue.Q or {}
  queue.Q[queue.p], queue.p, queue.u, queue.n = true, nil, nil, nil
end
queue.B, queue.D, queue.N = nil, nil, nil
queue.l = math.min(queue.l, queue.h - count_unclaimed())
queue.a = nil
if arg.after > 0 then
  queue.b = math.max(queue.b or 0, queue_now + arg.after)
elseif refuses_probe and not is_late then
  if is_probe and queue.y then queue.g = math.min(2 * (queue.g or FIRST_DELAY_MS), SETTLE_MS) end
  queue.y = nil
  queue.r = (queue.r or 0) + 1
  queue.z = queue.l
  queue.b = queue_now + math.min(arg.most, FIRST_DELAY_MS * 2 ^ math.min(queue.r - 1, 20))
elseif not is_late then
  -- A slot is gone or not free yet. A probe will soon tell which.
  queue.y = queue_now
  queue.b = math.min(queue.b or math.huge, queue_now + (queue.g or FIRST_DELAY_MS))
end
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms }
