-- What there is to know of a waiting entry: {its position, 0 being the next; slots; mean service time in ms, or -1, or -2
-- in a paused queue; how many ms it waits at least, for the rate, or for others of an owner that may hold only so many slots,
-- absent: there is neither, or nobody can estimate}, or false. Exact for up to 64 owners. With queued_ms and priority, it is
-- also told of an entry that waits apart from the queue for a while, as if it were back; nobody can estimate when it starts.
-- @include queue/hold_slot
-- @include queue/rank
-- @include queue/state
-- @late rate_of queue/rate

-- The virtual times of up to 64 owners, until they change.
local function virtual_times()
  local known = read_queues[queue_key]
  if not known.virtual_times then
    known.virtual_times = {}
    local rows = redis.call('ZRANGE', owners_key, 0, 63, 'WITHSCORES')
    for i = 1, #rows, 2 do known.virtual_times[rows[i]] = tonumber(rows[i + 1]) end
  end
  return known.virtual_times
end

local function position(queue, entry, owner, queued_ms, priority)
  local settings = queue_settings()
  local key = waiting_key(owner)
  local rank = redis.call('ZRANK', key, entry)
  local apart = not rank
  if apart then
    if not queued_ms or holds_slot(entry) then return false end
    rank = redis.call('ZCOUNT', key, '-inf', '(' .. rank_of(queued_ms * RANKS_PER_MS, priority))
  end
  local ahead = rank
  local times = virtual_times()
  local mine = times[owner] or tonumber(redis.call('ZSCORE', owners_key, owner) or queue.v)
  if owner_bound then
    ahead, times = owner_bound.ahead(owner, rank, mine, times), {}
  end
  for other, theirs in pairs(times) do
    if other ~= owner then
      -- When this entry's turn comes, theirs have come up to the same virtual time.
      local turns = mine + rank - theirs
      local entries = turns % 1 == 0 and other < owner and turns + 1 or math.ceil(turns)
      ahead = ahead + math.min(redis.call('ZCARD', waiting_key(other)), math.max(0, entries))
    end
  end
  local cap = settings.limit or queue.i
  local slots = math.max(queue.l, queue.h)
  if cap then slots = math.min(slots, cap) end
  local known = queue.c and slots > 0 and not apart and (queue.o or 0) <= queue_now
  -- A queue that lost a key counts fewer than wait.
  ahead = math.max(0, math.min(ahead, apart and queue.w or queue.w - 1))
  local rate = known and (settings.rate or queue.R) and rate_of(queue, settings)
  local least = rate and rate.wait_ms(ahead) or nil
  if owner_bound then least = math.max(least or 0, owner_bound.own_wait_ms(owner, rank)) end
  return { ahead, slots, settings.paused and -2 or known and math.floor(queue.s / queue.c) or -1, least }
end
