-- Lists the endpoint paths at which any entry of one partition's queues holds a slot.
--
-- KEYS[1]  the hash tag of the partition
-- Returns  the paths
-- @include queue/keys
return redis.call('SMEMBERS', held_paths_key(KEYS[1]))
