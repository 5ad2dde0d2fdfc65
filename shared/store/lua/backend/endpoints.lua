-- Lists the endpoints of a backend for which no process has asked lately, or forgets such that have no tasks.
--
-- KEYS[1]  the hash tag of the backend's partition
-- ARGV[1]  packed map: now (0: the server's clock), prefix, ms (how long ago is not lately), unused (paths to forget; absent:
--          list)
-- Returns  the paths, or how many were forgotten
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
local key = KEYS[1] .. 'endpoints:' .. arg.prefix
local before = now_ms(arg.now) - arg.ms
if not arg.unused then return redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%d', before)) end
local count = 0
for _, path in ipairs(arg.unused) do
  local asked = redis.call('ZSCORE', key, path)
  if asked and tonumber(asked) <= before then count = count + redis.call('ZREM', key, path) end
end
return count
