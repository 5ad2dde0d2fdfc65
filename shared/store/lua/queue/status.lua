-- Reports how a queue stands, and where one entry stands in it if it is given.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, queued_at, priority (absent: no entry)
-- Returns  {waiting, holding a slot, capacity estimate, limit or -1, paused, draining,
--           the entry's position if it waits (see position.lua) or false,
--           the outage of the backend, packed as outages_key has it, or false if there is none}
-- @include queue/position
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue, settings = queue_arg, load_queue(), queue_settings()
local cap = settings.limit or queue.i
local reply = {
  queue.w, queue.h, queue.l, cap or -1, settings.paused and 1 or 0, settings.draining and 1 or 0,
  arg.entry and position(queue, arg.entry, arg.owner, arg.queued_at, arg.priority) or false,
  queue.O and redis.call('HGET', outages_key(queue_tag), arg.path) or false,
}
write_queues()
return reply
