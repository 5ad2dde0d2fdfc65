-- Who was to dispatch a turn has no room for it: it waits again, and is not granted before the next occasion.
--
-- ARGV[1]  and: turn, owner, next (its turn from now on), queued at, priority
local queue = load()
local held = remove(queue, arg.turn, arg.owner)
wait(queue, arg.next, arg.owner, arg.queued_at, arg.priority, held)
save()
