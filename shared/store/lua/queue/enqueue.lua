-- Lets entries wait at an endpoint, unless they wait or hold a slot already, and grants free slots.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entries {{entry, owner, queued at (0: now), priority}, …},
--          published (true: the one entry is published if it gets a slot now),
--          new (true: the one entry is a new task's), just_created (true: this script has created the task, so it
--          holds no slot), arrives (true: entries that come to the endpoint, as a new one does), backlog (how many may
--          wait; absent: any number), own (how many of its owner's may wait; absent: any number), later (when the new
--          one starts; it stands in no queue until then, and is counted) or later_in (in how many ms), starts (true: those
--          that were to start later do so now)
-- Returns  {'enqueued', granted, ms, the position of a new one if it waits (see position.lua) or false}
--          {'full', how many ms until there is room or -1; 'delayed' if what is to start later was counted; 'owner' if there are
--          as many of its owner's as may be} or
--          {'draining', -1}: nothing changed
-- @include queue/enqueue_entries
local arg = cmsgpack.unpack(ARGV[1])
if arg.later_in then arg.later = now_ms(arg.now) + arg.later_in end
local reply = enqueue_entries(KEYS[1], arg)
write_queues()
return reply
