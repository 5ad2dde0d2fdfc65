-- How many tasks of a partition wait for a destination, and of how many it was given up to tell it.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  the destination
-- Returns  {waiting, given up}
-- @include task/keys
task_tag = KEYS[1]
return { redis.call('ZCARD', task_key('calls:' .. ARGV[1])), redis.call('ZCARD', task_key('uncalled:' .. ARGV[1])) }
