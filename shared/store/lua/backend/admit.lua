-- Takes an endpoint among those of its backend, unless the backend has as many as it may.
--
--   <tag>endpoints:<prefix>  zset    the endpoint paths of a backend that takes any path, by when a process has asked last,
--                                    or until when a task may come that goes there later
--
-- KEYS[1]  the hash tag of the backend's partition
-- ARGV[1]  packed map: now (0: the server's clock), prefix, path, most, ahead (for how many ms from now no process will ask)
-- Returns  1, or 0 if it was not taken
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
local key = KEYS[1] .. 'endpoints:' .. arg.prefix
local known = redis.call('ZSCORE', key, arg.path)
if not known and redis.call('ZCARD', key) >= arg.most then return 0 end
local asked = now_ms(arg.now) + arg.ahead
if not known or tonumber(known) < asked then redis.call('ZADD', key, string.format('%d', asked), arg.path) end
return 1
