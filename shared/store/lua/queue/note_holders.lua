-- Notes whose entries hold slots, where an owner's may hold only so many. One that holds none any more is left out.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entries {{entry, owner}, …}
-- @include queue/hold_slot
-- @include queue/state
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
load_queue()
for _, row in ipairs(queue_arg.entries) do
  if owner_bound and holds_slot(row[1]) then owner_bound.note(row[2], row[1]) end
end
write_queues()
