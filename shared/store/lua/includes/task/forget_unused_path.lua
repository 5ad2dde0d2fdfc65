-- Forgets the path that a task has left if it has no task any more, so that counting costs by the paths in use.
-- @include task/keys
-- @include task/states
local function forget_unused_path(path, state)
  if redis.call('EXISTS', index_key(path, state)) == 1 or redis.call('EXISTS', index_key(path, 'again')) == 1 then
    return
  end
  for _, other in ipairs(all_states()) do
    if redis.call('EXISTS', index_key(path, other)) == 1 then return end
  end
  redis.call('SREM', paths_key(), path)
end
