-- Lets entries wait; see queue/enqueue.lua.
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/position
-- @late owner_room_ms queue/owner_room_ms
-- @late queue_room_ms queue/room_ms
-- @include queue/wait
-- @late delay_entry queue/delay_entry
-- @late forget_delayed queue/forget_delayed
local function enqueue_entries(tag, arg)
  begin_queue(tag, arg)
  local queue, settings = load_queue(), queue_settings()
  local first, owner = arg.entries[1][1], arg.entries[1][2]
  if arg.later then
    -- A step that is taken twice has noted it already.
    if arg.just_created == false then return { 'enqueued', {}, -1, false } end
    return delay_entry(queue, settings, first, owner)
  end
  local is_full = arg.backlog and queue.w >= arg.backlog
  local own = arg.own and redis.call('ZCARD', waiting_key(owner))
  local is_owner_full = own and own >= arg.own
  if arg.new and (settings.draining or is_full or is_owner_full) and
      not (holds_slot(first) or redis.call('ZSCORE', waiting_key(owner), first)) then
    if settings.draining then return { 'draining', -1 } end
    local room_ms = is_full and queue_room_ms(queue, settings, queue.w - arg.backlog) or 0
    if not is_owner_full then return { 'full', room_ms } end
    return { 'full', owner_room_ms(queue, owner, own - arg.own, room_ms), 'owner' }
  end
  for _, row in ipairs(arg.entries) do
    if arg.starts then forget_delayed(row[1], row[2]) end
    if wait(queue, unpack(row)) and (arg.new or arg.arrives) then count(NEW) end
  end
  local granted, ms = grant_slots(queue)
  return { 'enqueued', granted, ms, arg.new and position(queue, first, owner) or false, held = held_key }
end
