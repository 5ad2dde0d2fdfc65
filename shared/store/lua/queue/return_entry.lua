-- The process that was to dispatch an entry has no room for it: it waits again, and is not granted before the next
-- occasion.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, next (its entry from now on), queued_at, priority
-- @include queue/remove_entry
-- @include queue/wait
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue = queue_arg, load_queue()
local is_charged = is_charged_for(arg.entry)
local held = remove_entry(queue, arg.entry, arg.owner)
wait(queue, arg.next, arg.owner, arg.queued_at, arg.priority, held, is_charged)
save_queue()
write_queues()
