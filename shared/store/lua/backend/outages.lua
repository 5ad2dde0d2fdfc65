-- Lists the outages of the backends of one partition's queues. Forgets those that ended long ago, and those that began
-- long ago and for whose end nothing waits.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now (0: the server's clock), kept (ms for which an outage that is over is kept)
-- Returns  {{path, outage as outages_key has it, whether any entry waits or holds a slot there}, …}
-- @include queue/keys
local arg = cmsgpack.unpack(ARGV[1])
local key, now = outages_key(KEYS[1]), now_ms(arg.now)
local found, rows = {}, redis.pcall('HGETALL', key)
-- What is no outage was written by somebody else.
if rows.err then redis.call('DEL', key) end
for i = 1, #rows, 2 do
  local path, raw = rows[i], rows[i + 1]
  local is_read, outage = pcall(cmsgpack.unpack, raw)
  local since, ended, cause = unpack(is_read and type(outage) == 'table' and outage or {})
  local is_outage = type(since) == 'number' and type(ended) == 'number' and type(cause) == 'string'
  begin_queue(KEYS[1], { now = now, path = path })
  local is_waited_for = redis.call('EXISTS', owners_key, held_key) > 0
  local is_over = is_outage and (ended > 0 or not is_waited_for)
  if not is_outage or is_over and math.max(since, ended) < now - arg.kept then
    redis.call('HDEL', key, path)
  else
    found[#found + 1] = { path, raw, is_waited_for and 1 or 0 }
  end
end
return found
