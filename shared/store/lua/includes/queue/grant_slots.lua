-- Grants free slots to waiting entries. Beyond the capacity estimate, one entry at a time is the probe: so a backend that
-- holds more is filled as fast as it answers, and one that does not refuses once. A search has as many probes as it found
-- slots before. Meanwhile slots within the estimate are granted all the same: where tasks are short some end before each
-- answer, and a queue that is never full learns nothing.
--
-- Returns {granted entries}, ms until it is worth asking again (-1: an event will tell sooner).
-- @include queue/hold_slot
-- @include queue/probe_answer_ms
-- @include queue/state
-- @late rate_of queue/rate

-- Takes the next entry out of those that wait: the best of the owner that is furthest behind. Returns it, its owner, its rank,
-- and whether that owner was charged; nil, true if each owner that waits holds as many slots as it ever may.
local function take_next(queue)
  while true do
    local known = read_queues[queue_key]
    local first
    if owner_bound then
      first = owner_bound.next_owner()
      if not first then return nil, true end
    else
      first = known.only_owner or redis.call('ZRANGE', owners_key, 0, 1, 'WITHSCORES')
    end
    local owner = first[1]
    if not owner then return end
    local key = waiting_key(owner)
    local popped = redis.pcall('ZPOPMIN', key)
    if popped.err then count_entries(key) end
    local entry, rank = unpack(popped)
    local is_alone = not first[3]
    known.only_owner = is_alone and first or nil
    if not entry or (is_alone and queue.w == 1) or (not is_alone and redis.call('EXISTS', key) == 0) then
      set_owner('ZREM', owner)
    elseif not is_alone then
      set_owner('ZINCRBY', 1, owner)
    end
    if entry then
      -- One that is alone has had its turn too: instead of its own time, the queue's is set back.
      queue.w, queue.v = queue.w - 1, tonumber(first[2]) - (is_alone and 1 or 0)
      return entry, owner, rank, not is_alone
    end
    recount(queue)
  end
end

-- Takes the entry behind the last probe: while the backend is away each probe is another one, so that one which ends the
-- backend is found out, and does not keep the others waiting.
local function take_probe(queue)
  local owner, _, rank, returned, rank_since = unpack(queue.P)
  local key, place = waiting_key(owner), redis.call('ZRANK', owners_key, owner)
  local probe
  if place then
    -- Entries of the same rank are in the order of their names.
    local at = rank_since == rank and redis.call('ZRANK', key, returned)
    at = at and at + 1 or redis.call('ZCOUNT', key, '-inf', rank)
    probe = redis.call('ZRANGE', key, at, at, 'WITHSCORES')
  end
  if not probe or not probe[1] then
    local at = place and place + 1 or 0
    owner = redis.call('ZRANGE', owners_key, at, at)[1] or redis.call('ZRANGE', owners_key, 0, 0)[1]
    if not owner then return end
    key = waiting_key(owner)
    probe = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if not probe[1] then return end
  end
  if owner_bound and queue.W < 0 and owner_bound.is_reached(owner) then return end
  redis.call('ZREM', key, probe[1])
  queue.w = queue.w - 1
  local is_charged = redis.call('EXISTS', key) == 1
  if is_charged then set_owner('ZINCRBY', 1, owner) else set_owner('ZREM', owner) end
  return probe[1], owner, probe[2], is_charged
end

local function grant_slots(queue)
  local granted, settings = {}, queue_settings()
  local cap = settings.limit or queue.i
  local rate = (settings.rate or queue.R) and rate_of(queue, settings)
  local ask_again_ms = -1
  -- An entry that gets a slot in the step that enqueued it is dispatched by an event, others by the process that asked.
  local published = queue_arg.published and queue_arg.entries[1][1]
  local settling = queue.f
  if settling then
    while settling[1] and settling[1] <= queue_now do table.remove(settling, 1) end
    if not settling[1] then settling, queue.f = nil, nil end
  end
  local probes = queue.p and 1 or 0
  if queue.Q then
    for _ in pairs(queue.Q) do probes = probes + 1 end
  end
  while queue.w > 0 and not settings.paused and not (cap and queue.h >= cap) do
    local at = queue.o or 0
    local within = queue.h - probes
    local widens = queue.p and probes < (queue.B or 1)
    -- After a pause for failures, a probe too, until an entry is accepted.
    local is_probe = within >= queue.l or queue.o ~= nil
    if is_probe then
      at = math.max(at, queue.b or 0, queue.p and not widens and queue.u or 0)
    elseif settling and within + #settling >= queue.l then
      at = math.max(at, settling[1])
    end
    if rate then at = math.max(at, rate.allows_at()) end
    if at > queue_now then
      ask_again_ms = rate and rate.ask_again_in_ms(at) or at - queue_now
      break
    end
    local entry, owner, rank, is_charged
    if queue.O and queue.P then entry, owner, rank, is_charged = take_probe(queue) end
    if not entry then entry, owner, rank, is_charged = take_next(queue) end
    if not entry then
      if not owner then recount(queue) end
      break
    end
    hold_slot(queue, entry, entry == published, is_charged)
    if rate then rate.note() end
    if owner_bound then owner_bound.note(owner, entry) end
    if queue.d then queue.P = { owner, entry, rank } end
    if is_probe then
      -- A backend that does not answer gets ever fewer, and one that is away only one at a time: within that time it is
      -- claimed, and its outcome recorded.
      if widens then
        queue.Q = queue.Q or {}
        queue.Q[queue.p] = true
      elseif queue.p then
        queue.j = (queue.j or 0) + 1
      elseif queue.j then
        queue.j = nil
      end
      if widens or not queue.p then probes = probes + 1 end
      queue.p, queue.m, queue.n = entry, queue.h, nil
      queue.u = queue_now + (queue.o and 2 * queue_arg.claim or PROBE_ANSWER_MS * 2 ^ math.min(queue.j or 0, 5))
      queue.a = queue_now + PROBE_ANSWER_MS
    end
    granted[#granted + 1] = entry
  end
  save_queue()
  return granted, ask_again_ms
end
