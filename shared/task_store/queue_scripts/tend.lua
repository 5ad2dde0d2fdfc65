-- What the reconciler looks after: hands on what nobody else did, and finds the slots that are to be looked at.
--
-- ARGV[1]  and: again (ms until a turn found is to be looked at again), most (turns found at most)
-- Returns  {granted, ms, {turns whose slot is to be looked at}, 0 if the queue is known to be whole, else which loss}
local queue = load()
if queue.w ~= count_waiting() then recount(queue) end
local due = redis.call('ZRANGEBYSCORE', HELD, '-inf', now, 'LIMIT', 0, arg.most)
for _, turn in ipairs(due) do redis.call('ZADD', HELD, 'XX', now + arg.again, turn) end
local granted, ms = hand_on(queue)
return { granted, ms, due, queue.k and 0 or queue.x }
