-- Lets an entry wait, unless it waits or holds a slot already. One that returns keeps its place, and its owner gets back
-- what it was charged for it. An owner that is new among the owners comes with all its entries: that index may have been
-- lost. It has its turn after those that have yet to have theirs, and before those that have had it.
-- Returns whether the entry waits from now on.
-- @include queue/hold_slot
-- @include queue/rank
-- @include queue/state

-- How much later than the entry that was granted last: that one's owner has its next turn one later. The difference is small,
-- so that an owner which always comes anew has no more turns than others.
local NEW_OWNER = 1 - 1 / 1024

local function wait(queue, entry, owner, queued_ms, priority, returns, is_charged)
  if not queue_arg.just_created and holds_slot(entry) then return false end
  local key = waiting_key(owner)
  local since = queued_ms * RANKS_PER_MS
  if since == 0 then
    -- A later one in the same millisecond goes later.
    since = math.max(queue_now * RANKS_PER_MS, (queue.q or 0) + 1)
    queue.q = since
  end
  local rank = rank_of(since, priority)
  local added = redis.pcall('ZADD', key, 'NX', rank, entry)
  if type(added) ~= 'number' and count_entries(key) == 0 then added = redis.call('ZADD', key, 'NX', rank, entry) end
  local known = read_queues[queue_key]
  local waits_since = queued_ms > 0 and queued_ms or queue_now
  if not known.since or waits_since < known.since then known.since = waits_since end
  local times = known.virtual_times
  local is_there = times and times[owner]
  if not is_there and redis.call('ZADD', owners_key, 'NX', returns and queue.v or queue.v + NEW_OWNER, owner) == 1 then
    known.virtual_times, known.only_owner = nil, nil
    queue.w = queue.w + redis.call('ZCARD', key)
  else
    queue.w = queue.w + added
    -- One that was alone then was not charged, and one that is alone now has nobody to go before: else it would go before
    -- others that come, once more for each refusal.
    if added == 1 and is_charged and redis.call('ZCARD', owners_key) > 1 then set_owner('ZINCRBY', -1, owner) end
  end
  return added == 1
end
