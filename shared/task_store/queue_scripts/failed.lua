-- A dispatch failed, which leaves its slot free. Where it looks as if the backend were down, it is left alone for a
-- while, so that not all who wait use up their attempts on it.
--
-- ARGV[1]  and: turn, owner, grace (how many failures in a row are let pass), base, most (ms of the pauses from then
--          on: first, and at most)
-- Returns  {granted, ms}
local queue = load()
local held = remove(queue, arg.turn, arg.owner)
if held and (queue.o or 0) <= now then
  queue.d = (queue.d or 0) + 1
  if queue.d > arg.grace then
    queue.l = math.min(queue.l, queue.h)
    queue.o = now + math.min(arg.most, arg.base * 2 ^ math.min(queue.d - arg.grace - 1, 20))
  end
end
return { hand_on(queue) }
