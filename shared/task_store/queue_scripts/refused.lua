-- The backend had no room for a turn: it holds what it holds without it, and no more is tried for a while. The task
-- waits again at its old place, as its next attempt.
--
-- ARGV[1]  and: turn, owner, next (its turn from now on), queued at, priority,
--          after (ms the backend asks to be left alone; 0: it says nothing), most (ms to wait at most if it does not)
-- Returns  {granted, ms}
--
-- Meanwhile, the slot that a finished task leaves is handed on all the same: its end is newer than the refusal.
local queue = load()
-- Also where another got the slot of this one: by that one more is tried, or was a moment ago.
local is_try = queue.p == arg.turn
local tried = is_try or (queue.a or 0) > now
local held = remove(queue, arg.turn, arg.owner)
wait(queue, arg.next, arg.owner, arg.queued_at, arg.priority, held)
queue.o, queue.d = nil, nil
queue.l = math.min(queue.l, queue.h)
queue.a = nil
if arg.after > 0 then
  queue.b = math.max(queue.b or 0, now + arg.after)
elseif tried then
  if is_try and queue.y then queue.g = math.min(2 * (queue.g or FIRST_DELAY_MS), SETTLE_MS) end
  queue.y = nil
  queue.r = (queue.r or 0) + 1
  queue.z = queue.l
  queue.b = now + math.min(arg.most, FIRST_DELAY_MS * 2 ^ math.min(queue.r - 1, 20))
else
  -- A slot is gone, or not free yet: soon it will be known which.
  queue.y = now
  queue.b = math.min(queue.b or math.huge, now + (queue.g or FIRST_DELAY_MS))
end
return { hand_on(queue) }
