-- Gives up what a destination was tried to be told of a task for too long.
-- @include callback/first_message
-- @include callback/kept_ms
-- @include callback/settle_call
local function drop_old(id, call, now)
  local is_dropped = false
  local message = first_message(call)
  while message and now >= (message[5] or message[2]) + CALL_KEPT_MS do
    settle_call(id, call, 'given up', now)
    message, is_dropped = first_message(call), true
  end
  return is_dropped
end
