-- Adds to the requests in flight that a reporter counted.
--
-- KEYS[1]  the tag of the counter's partition
-- ARGV     field, delta, operation id
-- Returns  the new sum; a replay adds nothing
local key = TAG .. 'requests'
local raw = redis.call('HGET', key, ARGV[1])
local sum, last = 0, ''
if raw then
  local kept = cmsgpack.unpack(raw)
  sum, last = kept[1], kept[2]
end
if last ~= ARGV[3] then
  sum = sum + tonumber(ARGV[2])
  redis.call('HSET', key, ARGV[1], cmsgpack.pack({ sum, ARGV[3] }))
end
return sum
