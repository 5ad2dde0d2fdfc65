-- Grants free slots.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/grant_slots
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local granted, ms = grant_slots(load_queue())
write_queues()
return { granted, ms }
