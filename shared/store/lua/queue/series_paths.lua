-- Lists the paths of one partition that have rows in the series.
--
-- KEYS[1]  the hash tag of the partition
-- Returns  the paths, the least used first
return redis.call('ZRANGE', KEYS[1] .. 'series', 0, -1)
