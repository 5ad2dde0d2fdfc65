-- Stores a new task and lets it wait in its endpoint's queue, unless the queue refuses it. For a server that has all
-- partitions.
--
-- KEYS     of two slots of a cluster, so that several servers refuse before it begins
-- ARGV     for each step: the hash tag of the task's partition, ARGV[1] and ARGV[2] of task/create, the hash tag of the
--          queue's partition, ARGV[1] of queue/enqueue without the entry and the path
-- Returns  for each step {what task/create returns, what queue/enqueue returns, or false if the id was taken}, or its error
-- @include combined/create_queued
-- @include combined/each_step
local replies = each_step(5, create_queued)
write_queues()
return replies
