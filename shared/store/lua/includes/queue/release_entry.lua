-- Ends an entry and grants its slot; see queue/release.lua.
-- @include queue/count
-- @include queue/grant_slots
-- @include queue/raise_estimate
-- @include queue/remove_entry
-- @late forget_delayed queue/forget_delayed

-- The service time is remembered of about so many entries.
local RECENT_ENTRIES = 100

local function count_end(arg)
  if arg.waited then count(timed(WAITED, arg.waited)) end
  if arg.ended == 'completed' then
    count(arg.served and timed(RAN, arg.served) or SUCCESS)
  else
    count(arg.ended == 'failed' and FAILURE or arg.ended == 'cancelled' and CANCEL or RETRY)
  end
end

-- `is_first_time` is true of a step that is no repetition.
local function release_entry(tag, arg, is_first_time)
  begin_queue(tag, arg)
  local queue = load_queue()
  local is_known = redis.call('ZREM', held_key, arg.entry) == 1
  if not is_known then
    is_known = stop_waiting(queue, arg.entry, arg.owner)
  else
    if arg.served then
      raise_estimate(queue, arg.entry, true)
      queue.c = (queue.c or 0) + 1
      local kept = math.min(1, RECENT_ENTRIES / queue.c)
      queue.c, queue.s = queue.c * kept, queue.s * kept
    end
    free_slot(queue, arg.entry, arg.owner)
    if queue.p then queue.n = true end
    if queue.e then
      queue.f = queue.f or {}
      table.insert(queue.f, queue_now + math.floor(queue.e))
      table.sort(queue.f)
    end
  end
  if arg.later then forget_delayed(arg.entry, arg.owner) end
  -- A step that is taken twice counts once. An end may also be that of a task that waits apart, or has freed its slot.
  if arg.ended and (is_first_time or is_known or queue.X ~= arg.entry) then
    count_end(arg)
    if not is_first_time then queue.X = arg.entry end
  end
  local granted, ms = grant_slots(queue)
  return { granted, ms, held = held_key }
end
