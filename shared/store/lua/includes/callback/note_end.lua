-- Has the destination of a task's callback told that the task has ended, if it wants to be. What it was not yet told of the
-- task's progress is overtaken. Whoever calls it stores the record.
-- @include common/time_text
-- @include task/keys

-- So many ends of a task that begins again and again are told to a destination that is away meanwhile.
local MOST_ENDS = 16

local function note_end(id, rec, now)
  local call = rec.J
  local calls = task_key('calls:' .. call.d)
  call.e = rec.a
  if not call.Q then call.t = nil end
  if call.p then call.p = nil end
  if call.w:find(rec.s:sub(1, 2), 1, true) then
    call.n = call.n + 1
    call.l = { call.n, rec.s, now, rec.a, now }
    call.Q = call.Q or {}
    call.Q[#call.Q + 1] = call.l
    -- The first may be on its way.
    if #call.Q > MOST_ENDS then table.remove(call.Q, 2) end
    if #call.Q == 1 and not (call.c and call.c[1] > now) then redis.call('ZADD', calls, time_text(now), id) end
  elseif not call.Q then
    redis.call('ZREM', calls, id)
    redis.call('ZREM', task_key('owed'), id)
  end
end
