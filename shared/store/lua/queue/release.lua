-- Ends an entry: its attempt is over, or has gone elsewhere. Grants its slot to another.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, served (ms it took the backend; absent: it was not served)
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/release_entry
local reply = release_entry(KEYS[1], cmsgpack.unpack(ARGV[1]))
write_queues()
return reply
