-- An instance of the backend tells how many tasks it holds at a time.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: told ({instance, how many it holds at a time}), kept, pause (see
--          told_slots.lua)
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/grant_slots
-- @include queue/told_slots
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local queue = load_queue()
note_told_slots(unpack(queue_arg.told))
count_told_slots(queue)
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms }
