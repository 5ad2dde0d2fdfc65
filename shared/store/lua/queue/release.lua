-- Ends an entry: its attempt is over, or has gone elsewhere. Grants its slot to another.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, served (ms it took the backend; absent: it was not served),
--          ended (how the task ended here; 'retried': it waits again; absent: that is counted elsewhere), once (true: this
--          is no repetition), waited (ms until it was dispatched; counted only if the backend has not accepted it),
--          later (true: it was submitted to start later)
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/release_entry
-- @include queue/wait_counted
local arg = cmsgpack.unpack(ARGV[1])
begin_queue(KEYS[1], arg)
local score = arg.waited and holds_slot(arg.entry)
if not score or is_wait_counted(score) then arg.waited = nil end
local reply = release_entry(KEYS[1], arg, arg.once)
write_queues()
return reply
