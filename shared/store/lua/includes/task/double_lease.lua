-- Gives a task's next attempt twice the lease, if this one was at its backend and nothing was heard of it for its own: it
-- may be at work. A service that has numbered its reports or sent heartbeats would have been heard of.
-- @include task/keys
local MOST_DOUBLINGS = 3

local function double_lease(rec)
  if not (rec.A or rec.s == 'running') then return end
  if redis.call('ZSCORE', task_key('fenced'), rec.p) then
    rec.L = nil
  else
    rec.L = math.min((rec.L or 0) + 1, MOST_DOUBLINGS)
  end
end
