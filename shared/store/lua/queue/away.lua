-- An entry's backend was away when it was dispatched. That is the queue's matter: the entry waits again, and the caller
-- enqueues it once its task's record says so. It counts against the task only if the backend may have had the task, and
-- accepted another one since it was away for this task last: then this task may be what ends it.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, next (its entry from now on), queued_at, priority,
--          cause (of the outage, a text for callers),
--          since (when the backend was away for this task last; absent: not since it was accepted),
--          sent (true: the backend may have had the task),
--          elsewhere (true: the backend answers that it does not know the path, and accepts tasks at others),
--          grace (how many failures in a row bring no pause), base, most (ms: the first pause and the longest)
-- Returns  {what, now, since when the backend is away or 0, granted, ms}: granted and ms as in grant_slots.lua; what is
--          'away': it does not count;  'counts': it does;
--          'misdirected': the path was never known there. It counts, and says nothing against the backend.
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/outage
-- @include queue/rank
-- @include queue/remove_entry
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue = queue_arg, load_queue()
local held = remove_entry(queue, arg.entry, arg.owner)
if held then count(RETRY) end
local what = 'away'
if arg.elsewhere and not queue.C then
  what = 'misdirected'
else
  if arg.sent and arg.since and (queue.A or 0) > arg.since then what = 'counts' end
  queue.j = nil
  if queue.P and queue.P[2] == arg.entry then
    queue.P[4], queue.P[5] = arg.next, rank_of(arg.queued_at * RANKS_PER_MS, arg.priority)
  end
  if held and (queue.o or 0) <= queue_now then
    queue.d = (queue.d or 0) + 1
    if queue.d > arg.grace then
      queue.l, queue.B = math.min(queue.l, queue.h), nil
      queue.o = queue_now + math.min(arg.most, arg.base * 2 ^ math.min(queue.d - arg.grace - 1, 20))
      begin_outage(queue, arg.cause)
    end
  end
end
local granted, ms = grant_slots(queue)
write_queues()
return { what, queue_now, queue.O or 0, granted, ms }
