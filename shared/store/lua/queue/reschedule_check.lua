-- Sets when entries that hold a slot and were published again are to be checked again.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entries {{entry, ms from now}, …}
-- @include queue/hold_slot
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
for _, row in ipairs(queue_arg.entries) do
  redis.call('ZADD', held_key, 'XX', AWAITS_CLAIM_MS + queue_now + row[2], row[1])
end
