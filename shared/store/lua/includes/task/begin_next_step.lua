-- Begins the next step of a pipeline: a new attempt with a clean slate, at the end of a queue.
local function begin_next_step(rec, now)
  rec.a, rec.n, rec.f, rec.q, rec.e, rec.z = rec.a + 1, 0, 0, now, rec.r ~= nil or nil, nil
  rec.U = nil
end
