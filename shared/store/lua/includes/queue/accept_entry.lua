-- Learns that the backend accepted an entry; see queue/accepted.lua.
-- @include queue/grant_slots
-- @include queue/raise_estimate
-- @include queue/remove_entry
local function accept_entry(tag, arg)
  begin_queue(tag, arg)
  local queue = load_queue()
  if holds_slot(arg.entry) then
    raise_estimate(queue, arg.entry)
  else
    -- An event that came another way had it dispatched, or it has ended already. An entry that waits is out of date.
    remove_entry(queue, arg.entry, arg.owner)
  end
  local granted, ms = grant_slots(queue)
  return { granted, ms, held = held_key }
end
