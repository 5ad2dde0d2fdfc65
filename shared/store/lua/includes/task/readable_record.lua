-- The record of a task, for the steps that must not stop at one that somebody else wrote: what cannot be a record is removed,
-- and the task is lost.
-- @include task/record
local function readable_record(id)
  local is_read, rec, raw = pcall(load_record, id)
  if is_read and not rec then return end
  if is_read and type(rec.s) == 'string' and type(rec.p) == 'string' and type(rec.a) == 'number' then return rec, raw end
  redis.call('DEL', task_key('t:' .. id))
end
