-- Ends an entry and grants its slot; see queue/release.lua.
-- @include queue/grant_slots
-- @include queue/raise_estimate
-- @include queue/remove_entry

-- The service time is remembered of about so many entries.
local RECENT_ENTRIES = 100

local function release_entry(tag, arg)
  begin_queue(tag, arg)
  local queue = load_queue()
  if redis.call('ZREM', held_key, arg.entry) == 0 then
    stop_waiting(queue, arg.entry, arg.owner)
  else
    if arg.served then
      raise_estimate(queue, arg.entry, true)
      queue.c = (queue.c or 0) + 1
      local kept = math.min(1, RECENT_ENTRIES / queue.c)
      queue.c, queue.s = queue.c * kept, queue.s * kept
    end
    free_slot(queue, arg.entry)
    if queue.p then queue.n = true end
    if queue.e then
      queue.f = queue.f or {}
      table.insert(queue.f, queue_now + math.floor(queue.e))
      table.sort(queue.f)
    end
  end
  local granted, ms = grant_slots(queue)
  return { granted, ms, held = held_key }
end
