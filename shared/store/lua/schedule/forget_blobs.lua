-- Forgets blobs that are deleted.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     their names
-- @include task/keys
task_tag = KEYS[1]
redis.call('ZREM', task_key('schedules_due'), unpack(ARGV))
