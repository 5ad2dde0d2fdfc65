-- A turn is over, or taken back; its slot is handed on.
--
-- ARGV[1]  and: turn, owner, served (ms it took the backend; absent: it did not serve it)
-- Returns  {granted, ms}
local queue = load()
if redis.call('ZREM', HELD, arg.turn) == 0 then
  give_up(queue, arg.turn, arg.owner)
else
  if arg.served then
    proven(queue, arg.turn, true)
    queue.c = (queue.c or 0) + 1
    local kept = math.min(1, RECENT / queue.c)
    queue.c, queue.s = queue.c * kept, queue.s * kept
  end
  freed(queue, arg.turn)
  if queue.p then queue.n = true end
  if queue.e then
    queue.f = queue.f or {}
    table.insert(queue.f, now + math.floor(queue.e))
    table.sort(queue.f)
  end
end
local granted, ms = hand_on(queue)
return { granted, ms, held = HELD }
