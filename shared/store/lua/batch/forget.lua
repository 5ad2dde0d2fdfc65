-- Forgets children of a batch that is being removed.
--
-- KEYS[1]  the hash tag of the batch's partition
-- ARGV     the batch, then the children
-- @include task/keys
task_tag = KEYS[1]
redis.call('ZREM', task_key('c:' .. ARGV[1]), unpack(ARGV, 2))
