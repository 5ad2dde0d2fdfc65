-- Whether a path has any tasks that have not ended, and whether it has any that have.
-- @include task/keys
local function has_open_tasks(path)
  local index = 'z:' .. path .. ':'
  local created, again, dispatched, running =
    task_key(index .. 'created'), task_key(index .. 'again'), task_key(index .. 'dispatched'), task_key(index .. 'running')
  return redis.call('EXISTS', created, again, dispatched, running) > 0
end

local function has_ended_tasks(path)
  local index = 'z:' .. path .. ':'
  return redis.call('EXISTS', task_key(index .. 'completed'), task_key(index .. 'failed'), task_key(index .. 'cancelled')) > 0
end
