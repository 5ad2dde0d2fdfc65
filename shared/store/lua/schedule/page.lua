-- Reads schedules by their owners and names.
--
-- KEYS[1]  the hash tag of a partition
-- ARGV     the least name and the greatest, as ZRANGEBYLEX takes them, and how many at most
-- Returns  {{'<owner> <name>', record}, …}
-- @include task/keys
task_tag = KEYS[1]
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', task_key('schedules'), ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  local raw = redis.call('GET', task_key('schedule:' .. name))
  if raw then found[#found + 1] = { name, raw } end
end
return found
