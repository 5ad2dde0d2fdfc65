-- When a queue that holds as many waiting entries as it may will have room, in ms: once `ahead` and one more of them have been
-- granted a slot; -1: nobody knows.
-- @include queue/state
-- @late rate_of queue/rate
local function queue_room_ms(queue, settings, ahead)
  if not queue.c or settings.paused then return -1 end
  local ms = math.floor((ahead + 1) * queue.s / queue.c / math.max(1, queue.l))
  if settings.rate or queue.R then ms = math.max(ms, rate_of(queue, settings).wait_ms(ahead)) end
  return ms
end
