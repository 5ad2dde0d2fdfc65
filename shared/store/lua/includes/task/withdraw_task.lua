-- Removes a new task; see task/withdraw.lua.
-- @include task/purge_task
-- @include task/record
local function withdraw_task(tag, id)
  task_tag = tag
  local rec = load_record(id)
  if not rec then return 1 end
  if rec.s ~= 'created' or rec.v > 1 or rec.W then return 0 end
  purge_task(id, rec)
  return 1
end
