-- Notes that an event stayed unclaimed, or that one was claimed again.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  '1' if it stayed unclaimed, else '0'
-- @include reconciler/key
if ARGV[1] == '1' then
  redis.call('HSET', reconciler_key(KEYS[1]), 'unclaimed', 1)
else
  redis.call('HDEL', reconciler_key(KEYS[1]), 'unclaimed')
end
