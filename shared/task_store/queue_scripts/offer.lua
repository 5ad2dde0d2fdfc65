-- Lets turns wait at an endpoint, unless they do or hold a slot already, and hands free slots on.
--
-- ARGV[1]  and: turns {{turn, owner, queued at (0: now), priority}, …}, new (true: of a new task, of which there is one),
--          fresh (true: this script has created its task, so it holds no slot), backlog (how many may wait; absent:
--          any number)
-- Returns  {'taken', granted, ms, what there is to tell of a new one if it waits (see place) or false}
--          {'full', how many ms until there is room or -1} or {'draining', -1}: nothing changed
local queue, set = load(), settings()
local is_full = arg.backlog and queue.w >= arg.backlog
if arg.new and (set.draining or is_full) and not stands(arg.turns[1][1], arg.turns[1][2]) then
  if set.draining then return { 'draining', -1 } end
  local slots = math.max(1, queue.l)
  local known = queue.c and not set.paused
  return { 'full', known and math.floor((queue.w - arg.backlog + 1) * queue.s / queue.c / slots) or -1 }
end
for _, row in ipairs(arg.turns) do
  wait(queue, unpack(row))
end
local granted, ms = hand_on(queue)
return { 'taken', granted, ms, arg.new and place(queue, arg.turns[1][1], arg.turns[1][2]) or false, held = HELD }
