-- Begins the next step of a pipeline, or a task again: a new attempt with a clean slate, at the end of a queue. `arg` is the
-- argument of apply.lua. Reports may come that look like the step's and are the previous one's, unless that one names its
-- attempt.
-- @include task/checkpoint
-- @include task/keys

-- Of so many attempts it is known how they sent the task on.
local MOST_SENT_ON = 16

local function begin_next_step(id, rec, now, arg)
  if arg.takes_result then
    -- By reference: the body gets the result's name.
    if rec.r[3] then
      redis.call('DEL', task_key('b:' .. id))
    else
      redis.call('RENAME', task_key('r:' .. id), task_key('b:' .. id))
    end
    rec.b, rec.r = rec.r, nil
  end
  if arg.token then
    local sent = rec.M or {}
    sent[#sent + 1] = { rec.a, arg.token }
    if #sent > MOST_SENT_ON then table.remove(sent, 1) end
    rec.M = sent
  end
  rec.a, rec.n, rec.f, rec.q, rec.e, rec.z = rec.a + 1, 0, 0, now, rec.r ~= nil or nil, nil
  rec.H, rec.L, rec.U, rec.R = not (arg.revive or arg.attempt) or nil, nil, nil, nil
  rec.P = nil
  -- What the backend says of how long it waits and runs there. A task that begins again at its endpoint never expires.
  if arg.expires then rec.V = now - rec.c + arg.expires end
  if arg.lease and (rec.I or arg.run) then
    local asked = rec.I and rec.I[2]
    local most = arg.run and asked and math.min(arg.run, asked) or arg.run or asked
    rec.I = most and { most, asked } or nil
  end
  if rec.C then set_checkpoint(id, rec) end
end
