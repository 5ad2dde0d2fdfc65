-- Lists the outages of the backends of one partition's queues, and forgets those that ended long ago.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now (0: the server's clock), kept (ms for which an outage that is over is kept)
-- Returns  {{path, outage as outages_key has it, whether any entry waits or holds a slot there}, …}
-- @include queue/keys
local arg = cmsgpack.unpack(ARGV[1])
local key, now = outages_key(KEYS[1]), now_ms(arg.now)
local found, rows = {}, redis.call('HGETALL', key)
for i = 1, #rows, 2 do
  local path, raw = rows[i], rows[i + 1]
  local ended = cmsgpack.unpack(raw)[2]
  if ended > 0 and ended < now - arg.kept then
    redis.call('HDEL', key, path)
  else
    begin_queue(KEYS[1], { now = now, path = path })
    found[#found + 1] = { path, raw, redis.call('EXISTS', owners_key, held_key) > 0 and 1 or 0 }
  end
end
return found
