-- Marks entries that the backend is known to hold as holding a slot, for a queue that is rebuilt.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entries {{entry, owner}, …}
-- @include queue/hold_slot
-- @include queue/remove_entry
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local queue = load_queue()
for _, row in ipairs(queue_arg.entries) do
  if not holds_slot(row[1]) then
    remove_entry(queue, row[1], row[2])
    hold_slot(queue, row[1])
    if owner_bound then owner_bound.note(row[2], row[1]) end
  end
end
save_queue()
write_queues()
