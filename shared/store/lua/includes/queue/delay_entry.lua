-- Counts a new task that starts later, where a bound says how many may wait: it stands in no queue yet, and will. Refused is
-- one too many of those that wait or are to start.
-- @include common/time_text
-- @include queue/hold_slot
-- @include queue/owner_room_ms
-- @include queue/room_ms

-- What is not said to have started is forgotten so long after its time.
local DELAYED_KEPT_MS = 3600000

-- How many are to start, if the entry is not among them.
local function count_delayed(key, entry)
  if count_entries(key) == 0 then return 0 end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', queue_now - DELAYED_KEPT_MS)
  return not redis.call('ZSCORE', key, entry) and redis.call('ZCARD', key)
end

-- How long until the nth of those that are to start does so, counted from 0.
local function start_in_ms(key, nth)
  return math.max(0, (redis.call('ZRANGE', key, nth, nth, 'WITHSCORES')[2] or queue_now) - queue_now)
end

local function delay_entry(queue, settings, entry, owner)
  local arg, all, own = queue_arg, delayed_key(), delayed_key(owner)
  if settings.draining then return { 'draining', -1 } end
  -- A repetition that comes after the start.
  if holds_slot(entry) or redis.call('ZSCORE', waiting_key(owner), entry) then return { 'enqueued', {}, -1, false } end
  local room_ms = 0
  local delayed = arg.backlog and count_delayed(all, entry)
  local is_full = delayed and queue.w + delayed >= arg.backlog
  if is_full then
    local ahead = queue.w + delayed - arg.backlog
    room_ms = ahead < queue.w and queue_room_ms(queue, settings, ahead) or start_in_ms(all, ahead - queue.w)
  end
  delayed = arg.own and count_delayed(own, entry)
  local waiting = delayed and count_entries(waiting_key(owner))
  if delayed and waiting + delayed >= arg.own then
    local ahead = waiting + delayed - arg.own
    if ahead < waiting then
      room_ms = owner_room_ms(queue, owner, ahead, room_ms)
    elseif room_ms >= 0 then
      room_ms = math.max(room_ms, start_in_ms(own, ahead - waiting))
    end
    return { 'full', room_ms, 'delayed', 'owner' }
  end
  if is_full then return { 'full', room_ms, 'delayed' } end
  for _, key in ipairs({ arg.backlog and all or false, arg.own and own or false }) do
    if key then
      redis.call('ZADD', key, 'NX', time_text(arg.later), entry)
      local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
      redis.call('PEXPIRE', key, time_text(math.max(0, last - queue_now) + 2 * DELAYED_KEPT_MS))
    end
  end
  return { 'enqueued', {}, -1, false }
end
