-- The backend accepted an entry. If that is more than the capacity estimate, the estimate rises and the queue probes on.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, waited (ms until it was dispatched; absent: it
--          was dispatched before)
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/accept_entry
-- @include queue/wait_counted
local arg = cmsgpack.unpack(ARGV[1])
begin_queue(KEYS[1], arg)
local score = arg.waited and holds_slot(arg.entry)
if not score or is_wait_counted(score) then arg.waited = nil end
local reply = accept_entry(KEYS[1], arg)
if arg.waited then mark_wait_counted(arg.entry) end
write_queues()
return reply
