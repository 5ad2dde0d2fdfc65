-- What the reconciler does for a queue at each run: grants what was left, and finds the slots that are to be checked.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: again (ms until an entry that was found is checked again),
--          most (how many entries are found at most)
-- Returns  {granted, ms, {entries whose slot is to be checked}, 0 if the queue is known to be whole, else which loss}
-- @include queue/grant_slots
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue = queue_arg, load_queue()
if queue.w ~= count_waiting() then recount(queue) end
local due = redis.call('ZRANGEBYSCORE', held_key, '-inf', queue_now, 'LIMIT', 0, arg.most)
for _, entry in ipairs(due) do redis.call('ZADD', held_key, 'XX', queue_now + arg.again, entry) end
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms, due, queue.k and 0 or queue.x }
