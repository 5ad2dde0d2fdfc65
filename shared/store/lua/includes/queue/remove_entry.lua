-- @include queue/state

-- An entry that held a slot holds it no more.
local function free_slot(queue, entry, owner)
  queue.h = queue.h - 1
  if owner_bound then owner_bound.forget(owner, entry) end
  if queue.p == entry then queue.p, queue.u, queue.n = nil, nil, nil end
  if queue.Q and queue.Q[entry] then
    queue.Q[entry] = nil
    if next(queue.Q) == nil then queue.Q = nil end
  end
end

-- Takes an entry out of those that wait, and returns whether it did. Where the index of owners was lost, it was not counted.
local function stop_waiting(queue, entry, owner)
  local key = waiting_key(owner)
  local waits = redis.call('ZREM', key, entry) == 1
  if waits and redis.call('ZSCORE', owners_key, owner) then
    queue.w = queue.w - 1
    if redis.call('EXISTS', key) == 0 then set_owner('ZREM', owner) end
  end
  return waits
end

-- Takes an entry out, wherever it is. Returns whether it held a slot.
local function remove_entry(queue, entry, owner)
  local held = redis.call('ZREM', held_key, entry) == 1
  if held then free_slot(queue, entry, owner) else stop_waiting(queue, entry, owner) end
  return held
end
