-- The backend took a turn. If that was more than it was known to hold, it is known to hold that, and more is tried.
--
-- ARGV[1]  and: turn, owner
-- Returns  {granted, ms}
local queue = load()
if holds(arg.turn) then
  proven(queue, arg.turn)
else
  -- An event had it dispatched that came by other ways, or it is at its end already: then what waits is the past.
  remove(queue, arg.turn, arg.owner)
end
local granted, ms = hand_on(queue)
return { granted, ms, held = HELD }
