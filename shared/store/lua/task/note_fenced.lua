-- Notes that the model services of an endpoint number their reports or send heartbeats, and forgets those of which that was
-- noted long ago.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     now (0: the server's), the endpoint path, for how long it is kept in ms
-- @include common/now_ms
-- @include common/time_text
-- @include task/keys
task_tag = KEYS[1]
local now = now_ms(tonumber(ARGV[1]))
redis.call('ZADD', task_key('fenced'), time_text(now), ARGV[2])
redis.call('ZREMRANGEBYSCORE', task_key('fenced'), '-inf', time_text(now - ARGV[3]))
