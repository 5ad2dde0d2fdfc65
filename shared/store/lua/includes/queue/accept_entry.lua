-- Learns that the backend accepted an entry; see queue/accepted.lua.
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/hold_slot
-- @include queue/raise_estimate
-- @include queue/remove_entry
local function accept_entry(tag, arg)
  begin_queue(tag, arg)
  local queue = load_queue()
  local held = holds_slot(arg.entry)
  if held then
    if awaits_claim(held) then redis.call('ZADD', held_key, time_text(queue_now + arg.claim), arg.entry) end
    raise_estimate(queue, arg.entry)
  else
    -- An event that came another way had it dispatched, or it has ended already. An entry that waits is out of date.
    remove_entry(queue, arg.entry, arg.owner)
  end
  if arg.waited then count(timed(WAITED, arg.waited)) end
  local granted, ms = grant_slots(queue)
  return { granted, ms, held = held_key }
end
