-- The backend accepted an entry. If that is more than the capacity estimate, the estimate rises and the queue probes on.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/accept_entry
local reply = accept_entry(KEYS[1], cmsgpack.unpack(ARGV[1]))
write_queues()
return reply
