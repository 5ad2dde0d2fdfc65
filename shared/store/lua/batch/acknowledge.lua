-- Forgets what became of children: their batches know it.
--
-- KEYS[1]  the hash tag of the children's partition
-- ARGV     as in 'ends' in task/keys
-- @include task/keys
task_tag = KEYS[1]
redis.call('ZREM', task_key('ends'), unpack(ARGV))
