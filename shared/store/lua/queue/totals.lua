-- Reads what was counted at some endpoint paths since they are in use, and how their queues stand. It writes nothing.
--
-- KEYS[1]  the hash tag of the paths' partition
-- ARGV     the paths
-- Returns  for each path its sum, see series_keys.lua, its queue's state, its queue's settings and the record of these: each
--          packed, or false
-- @include queue/keys
-- @include queue/series_keys
local keys = {}
for _, path in ipairs(ARGV) do
  begin_queue(KEYS[1], { now = 0, path = path })
  keys[#keys + 1] = sum_key(KEYS[1], path)
  keys[#keys + 1] = queue_key
  keys[#keys + 1] = settings_key
end
local found, records = redis.call('MGET', unpack(keys)), redis.pcall('HMGET', KEYS[1] .. SETTINGS_RECORD, unpack(ARGV))
local rows = {}
for at = 1, #ARGV do
  for part = 3 * at - 2, 3 * at do rows[#rows + 1] = found[part] end
  rows[#rows + 1] = not records.err and records[at]
end
return rows
