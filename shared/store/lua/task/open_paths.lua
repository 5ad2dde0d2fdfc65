-- Lists the endpoint paths that have tasks in one partition that have not ended. Paths that have no such tasks any more are
-- set aside, so that this costs by what goes on, not by what was. A few of those aside are looked at too: a process of an
-- earlier version knows nothing of them.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  how many of the paths aside are looked at
-- Returns  the paths
-- @include task/used_indexes
task_tag = KEYS[1]
local paths, ended = task_key('paths'), task_key('ended_paths')
local open = {}
for _, path in ipairs(redis.call('SMEMBERS', paths)) do
  if has_open_tasks(path) then
    open[#open + 1] = path
  else
    redis.call('SREM', paths, path)
    if has_ended_tasks(path) then redis.call('SADD', ended, path) end
  end
end
for _, path in ipairs(redis.call('SRANDMEMBER', ended, ARGV[1])) do
  local is_open = has_open_tasks(path)
  if is_open then
    open[#open + 1] = path
    redis.call('SADD', paths, path)
  end
  if is_open or not has_ended_tasks(path) then redis.call('SREM', ended, path) end
end
return open
