-- Sets a finished task's deadline: the end of its retention, or when to publish its completion again. Its checkpoint goes.
-- `completion_ms` is 0 if nobody wants a completion event. The end of a batch's child is kept until the batch knows it.
-- @include task/checkpoint
-- @include task/set_due
-- @late note_end callback/note_end
local function begin_retention(id, rec, now, retention_ms, completion_ms)
  if rec.C then set_checkpoint(id, rec) end
  if rec.J then note_end(id, rec, now) end
  if completion_ms > 0 then rec.y, rec.n = true, 1 elseif rec.y then rec.y = nil end
  set_due(id, now + (completion_ms > 0 and completion_ms or retention_ms))
  if rec.B then redis.call('ZADD', task_key('ends'), time_text(now), table.concat({ rec.B, id, rec.a, rec.s }, ' ')) end
end
