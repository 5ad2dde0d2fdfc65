-- Tells how a queue stands, and of one turn if it is given.
--
-- ARGV[1]  and: turn, owner (absent: none)
-- Returns  {waiting, holding a slot, known to fit, set limit or -1, paused, draining,
--           what there is to tell of the turn if it waits (see place) or false}
local queue, set = load(), settings()
local cap = set.limit or queue.i
return {
  queue.w, queue.h, queue.l, cap or -1, set.paused and 1 or 0, set.draining and 1 or 0,
  arg.turn and place(queue, arg.turn, arg.owner) or false,
}
