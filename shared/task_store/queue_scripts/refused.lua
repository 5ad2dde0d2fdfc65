-- The backend had no room for a turn: it holds what it holds without it, and no more is tried for a while. The task
-- waits again at its old place, as its next attempt.
--
-- ARGV[1]  and: turn, owner, next (its turn from now on), queued at, priority,
--          after (ms the backend asks to be left alone; 0: it says nothing), most (ms to wait at most if it does not)
-- Returns  {granted, ms}
--
-- Meanwhile, the slot that a finished task leaves is handed on all the same: its end is newer than the refusal.
local queue = load()
local held = remove(queue, arg.turn, arg.owner)
wait(queue, arg.next, arg.owner, arg.queued_at, arg.priority, held)
queue.o, queue.d = nil, nil
queue.l = math.min(queue.l, redis.call('ZCARD', HELD))
-- Refusals that come together are one lesson.
if (queue.b or 0) <= now then
  queue.r = (queue.r or 0) + 1
  queue.b = now + math.min(arg.most, FIRST_DELAY_MS * 2 ^ math.min(queue.r - 1, 20))
end
if arg.after > 0 then queue.b = math.max(queue.b, now + arg.after) end
return { hand_on(queue) }
