-- Draws a new attempt at the same endpoint: what the last one stored is void, and reports for it are refused.
-- The result of an earlier pipeline step stays: the new attempt may need it.
-- @include task/keys
local function new_attempt(id, rec)
  rec.a, rec.n, rec.z = rec.a + 1, 0, nil
  rec.A, rec.E, rec.P = nil, nil, nil
  if rec.r and not rec.e then
    rec.r = nil
    redis.call('DEL', task_key('r:' .. id))
  end
end
