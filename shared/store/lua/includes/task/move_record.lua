-- Moves a record to a state of its present or another path, in every index at once.
-- @include task/forget_unused_path
-- @include task/index
-- @include task/terminal
local function move_record(id, rec, state, path)
  local old_path, old_state = rec.p, rec.s
  remove_from_index(id, rec)
  rec.s, rec.p = state, path
  add_to_index(id, rec)
  -- The path of a task that had ended may be among those that no timer looks at. That of a batch is none, and that of a task
  -- that has yet to start is not.
  if path ~= old_path or is_terminal(old_state) and not rec.G or rec.T then
    local is_delayed = rec.T and state == 'created' and rec.z == 0 and rec.a == 1
    if not is_delayed then redis.call('SADD', task_key('paths'), path) end
  end
  if path ~= old_path then forget_unused_path(old_path, old_state) end
end
