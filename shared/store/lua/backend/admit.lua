-- Takes an endpoint among those of its backend, unless the backend has as many as it may.
--
--   <tag>endpoints:<prefix>  zset    the endpoint paths of a backend that takes any path, by when a process has asked last
--
-- KEYS[1]  the hash tag of the backend's partition
-- ARGV[1]  packed map: now (0: the server's clock), prefix, path, most
-- Returns  1, or 0 if it was not taken
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
local key = KEYS[1] .. 'endpoints:' .. arg.prefix
if not redis.call('ZSCORE', key, arg.path) and redis.call('ZCARD', key) >= arg.most then return 0 end
redis.call('ZADD', key, string.format('%d', now_ms(arg.now)), arg.path)
return 1
