-- Begins the next step of a pipeline, or a task again: a new attempt with a clean slate, at the end of a queue.
-- `is_heard` is false if reports may come that look like the step's and are the previous one's.
-- @include task/checkpoint
local function begin_next_step(id, rec, now, is_heard)
  rec.a, rec.n, rec.f, rec.q, rec.e, rec.z = rec.a + 1, 0, 0, now, rec.r ~= nil or nil, nil
  rec.H, rec.L, rec.U, rec.R = not is_heard or nil, nil, nil, nil
  rec.P = nil
  if rec.C then set_checkpoint(id, rec) end
end
