-- How long the backend took for a task that it completed, in ms; nil for others. Until a deferred end takes effect, the
-- last change is the report of it. Of a step of a pipeline that the last operation has ended, the record knows it.
local function service_time(rec)
  if rec.N and rec.N[3] == rec.k then return rec.N[4] end
  local is_completed = rec.s == 'completed' or rec.E and rec.E[1] == 'completed'
  return is_completed and rec.D and rec.m - rec.c - rec.D or nil
end
