-- Sets when a schedule is looked at next, by what its record says. What is left of one that is gone is removed.
--
-- KEYS[1]  the hash tag of its owner's partition
-- ARGV[1]  '<owner> <name>'
-- @include schedule/schedule
task_tag = KEYS[1]
local rec = load_schedule(ARGV[1])
if rec then
  save_schedule(ARGV[1], rec)
else
  redis.call('ZREM', task_key('schedules'), ARGV[1])
  redis.call('ZREM', task_key('schedules_due'), ARGV[1])
end
