-- Forgets the path that a task has left if it has no task any more, so that counting costs by the paths in use.
-- @include task/keys
-- @include task/states
local function forget_unused_path(path, state)
  local function is_used(index) return redis.call('EXISTS', task_key('z:' .. path .. ':' .. index)) == 1 end
  if is_used(state) or is_used('again') then return end
  for _, other in ipairs(all_states()) do
    if is_used(other) then return end
  end
  redis.call('SREM', task_key('paths'), path)
  redis.call('SREM', task_key('ended_paths'), path)
end
