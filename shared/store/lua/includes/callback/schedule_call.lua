-- Sets when a task's destination is tried next, not before `at`; or notes that it has been told all. Progress is told once a
-- second at most. Returns that time, or false.
-- @include callback/first_message
-- @include common/time_text
-- @include task/keys
-- @include task/terminal
local PROGRESS_MS = 1000

local function schedule_call(id, rec, at)
  local call = rec.J
  local calls = task_key('calls:' .. call.d)
  if first_message(call) then
    if not call.Q then at = math.max(at, (call.s or 0) + PROGRESS_MS) end
    redis.call('ZADD', calls, time_text(at), id)
    return at
  end
  redis.call('ZREM', calls, id)
  if is_terminal(rec.s) and call.e == rec.a then redis.call('ZREM', task_key('owed'), id) end
  return false
end
