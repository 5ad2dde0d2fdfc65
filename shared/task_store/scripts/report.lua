-- Adds to the requests in flight that a reporter counted.
--
-- KEYS[1]  the tag of the counter's partition
-- ARGV     field, delta, operation id
-- Returns  the new sum; a replay adds nothing
--
-- Many reporters share a counter, and a failover makes all of them repeat at once: so it keeps the last operations'
-- ids, {sum, id, …}, newest first.
local RECENT = 32
local key = TAG .. 'requests'
local raw = redis.call('HGET', key, ARGV[1])
local kept = raw and cmsgpack.unpack(raw) or { 0 }
for i = 2, #kept do
  if kept[i] == ARGV[3] then return kept[1] end
end
kept[1] = kept[1] + tonumber(ARGV[2])
table.insert(kept, 2, ARGV[3])
kept[RECENT + 2] = nil
redis.call('HSET', key, ARGV[1], cmsgpack.pack(kept))
return kept[1]
