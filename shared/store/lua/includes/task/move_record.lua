-- Moves a record to a state of its present or another path, in every index at once.
-- @include task/forget_unused_path
-- @include task/index
local function move_record(id, rec, state, path)
  local old_path, old_state = rec.p, rec.s
  remove_from_index(id, rec)
  rec.s, rec.p = state, path
  add_to_index(id, rec)
  if path ~= old_path then
    redis.call('SADD', task_key('paths'), path)
    forget_unused_path(old_path, old_state)
  end
end
