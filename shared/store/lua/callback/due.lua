-- Of which tasks a destination is to be told something now.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     now (0: the server's clock), the destination, how many at most
-- Returns  their ids
-- @include common/now_ms
-- @include task/keys
task_tag = KEYS[1]
return redis.call('ZRANGEBYSCORE', task_key('calls:' .. ARGV[2]), '-inf', now_ms(tonumber(ARGV[1])), 'LIMIT', 0, ARGV[3])
