-- Tells whether an entry holds a slot.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry
-- Returns  1 or 0
-- @include queue/hold_slot
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
return holds_slot(queue_arg.entry) and 1 or 0
