-- Counts entries no more that were to start later, and will not.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entries {{entry, owner}, …}
-- @include queue/forget_delayed
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
for _, row in ipairs(queue_arg.entries) do forget_delayed(row[1], row[2]) end
