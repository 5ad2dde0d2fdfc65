-- Lists the counters of requests in flight of one partition.
--
-- KEYS[1]  the hash tag of the partition
-- Returns  their fields
-- @include requests/keys
return redis.call('HKEYS', requests_key(KEYS[1]))
