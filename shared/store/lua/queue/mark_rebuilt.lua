-- All records of the path were enqueued since the loss: the queue is whole again, unless more was lost meanwhile.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: loss
-- @include queue/state
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local queue = load_queue()
if queue.x == queue_arg.loss then queue.k = true end
save_queue()
write_queues()
