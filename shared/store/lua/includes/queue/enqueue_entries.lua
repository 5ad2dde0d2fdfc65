-- Lets entries wait; see queue/enqueue.lua.
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/position
-- @include queue/wait
-- @late rate_of queue/rate
local function enqueue_entries(tag, arg)
  begin_queue(tag, arg)
  local queue, settings = load_queue(), queue_settings()
  local first, owner = arg.entries[1][1], arg.entries[1][2]
  local is_full = arg.backlog and queue.w >= arg.backlog
  if arg.new and (settings.draining or is_full) and
      not (holds_slot(first) or redis.call('ZSCORE', waiting_key(owner), first)) then
    if settings.draining then return { 'draining', -1 } end
    local slots = math.max(1, queue.l)
    local known, ahead = queue.c and not settings.paused, queue.w - arg.backlog
    local rate = known and (settings.rate or queue.R) and rate_of(queue, settings)
    local ms = known and math.floor((ahead + 1) * queue.s / queue.c / slots) or -1
    return { 'full', rate and math.max(ms, rate.wait_ms(ahead)) or ms }
  end
  for _, row in ipairs(arg.entries) do
    if wait(queue, unpack(row)) and (arg.new or arg.arrives) then count(NEW) end
  end
  local granted, ms = grant_slots(queue)
  return { 'enqueued', granted, ms, arg.new and position(queue, first, owner) or false, held = held_key }
end
