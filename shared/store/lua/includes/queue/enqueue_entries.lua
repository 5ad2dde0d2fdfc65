-- Lets entries wait; see queue/enqueue.lua.
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/position
-- @late owner_room_ms queue/owner_room_ms
-- @include queue/wait
-- @late rate_of queue/rate
local function enqueue_entries(tag, arg)
  begin_queue(tag, arg)
  local queue, settings = load_queue(), queue_settings()
  local first, owner = arg.entries[1][1], arg.entries[1][2]
  local is_full = arg.backlog and queue.w >= arg.backlog and not arg.later
  local is_owner_full = arg.own and not arg.later and redis.call('ZCARD', waiting_key(owner)) >= arg.own
  if arg.new and (settings.draining or is_full or is_owner_full) and
      not (holds_slot(first) or redis.call('ZSCORE', waiting_key(owner), first)) then
    if settings.draining then return { 'draining', -1 } end
    local slots = math.max(1, queue.l)
    local known, room_ms = queue.c and not settings.paused, -1
    if known and is_full then
      local ahead = queue.w - arg.backlog
      room_ms = math.floor((ahead + 1) * queue.s / queue.c / slots)
      if settings.rate or queue.R then room_ms = math.max(room_ms, rate_of(queue, settings).wait_ms(ahead)) end
    end
    if not is_owner_full then return { 'full', room_ms } end
    return { 'full', owner_room_ms(queue, owner, is_full and room_ms or 0), 'owner' }
  end
  if arg.later then return { 'enqueued', {}, -1, false } end
  for _, row in ipairs(arg.entries) do
    if wait(queue, unpack(row)) and (arg.new or arg.arrives) then count(NEW) end
  end
  local granted, ms = grant_slots(queue)
  return { 'enqueued', granted, ms, arg.new and position(queue, first, owner) or false, held = held_key }
end
