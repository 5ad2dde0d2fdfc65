-- What becomes of the first message of a task's callback: it is over, `what` tells how. The last ones are kept, for those who
-- ask. Progress that is over leaves nothing.
-- @include common/time_text
-- @include task/keys
local MOST_SETTLED = 8

local function settle_call(id, call, what, now)
  local message = call.Q and table.remove(call.Q, 1)
  if not message then
    call.p, call.t = nil, nil
    return
  end
  if #call.Q == 0 then call.Q = nil end
  local settled = call.D or {}
  settled[#settled + 1] = { message[1], message[2], message[3], message[4], what, now, call.t or 0, call.r and call.r[1] or '' }
  if #settled > MOST_SETTLED then table.remove(settled, 1) end
  call.D, call.t = settled, nil
  if what == 'delivered' then
    if not call.Q then redis.call('ZREM', task_key('uncalled:' .. call.d), id) end
  else
    redis.call('ZADD', task_key('uncalled:' .. call.d), time_text(now), id)
  end
end
