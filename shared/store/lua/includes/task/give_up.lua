-- Ends a task that cannot go on. `reason` is why, as shared/tasks/end_reason.py has it; `arg` is the argument of sweep.lua or
-- check_slots.lua.
-- @include task/append_event
-- @include task/begin_retention
-- @include task/move_record
-- @include task/record
-- @include task/set_status
local function give_up(id, rec, status, reason, now, arg)
  move_record(id, rec, 'failed', rec.p)
  set_status(rec, status)
  if rec.V then rec.V = nil end
  append_event(rec, now, 'reconciler', status, reason)
  rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
  begin_retention(id, rec, now, arg.retention, arg.completion)
  return save_record(id, rec, true)
end
