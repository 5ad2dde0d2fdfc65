-- All records of the path were offered since the loss: the queue is whole again, unless more was lost meanwhile.
--
-- ARGV[1]  and: loss
local queue = load()
if queue.x == arg.loss then queue.k = true end
save()
