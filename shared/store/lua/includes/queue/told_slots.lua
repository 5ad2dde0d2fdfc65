-- What the instances of a backend tell that they hold. The argument has kept (ms after which an instance that tells nothing
-- is forgotten) and pause (ms without a probe beyond what was told).
-- @include queue/state

-- A step's cost grows with them. What more there are is found by probes.
local MOST_INSTANCES = 1000

-- An instance tells how many tasks it holds at a time; 0: it takes no more.
local function note_told_slots(instance, slots)
  local key = instances_key()
  if slots == 0 then
    redis.call('HDEL', key, instance)
  elseif redis.call('HEXISTS', key, instance) == 1 or redis.call('HLEN', key) < MOST_INSTANCES then
    redis.call('HSET', key, instance, cmsgpack.pack({ slots, queue_now }))
    redis.call('PEXPIRE', key, KEPT_MS)
  end
end

-- Sums up what they told, and forgets those that have told nothing for a while. More than before is there at once; what is
-- gone is gone at once.
local function count_told_slots(queue)
  local sum, first, before = 0, nil, queue.T or 0
  local key = instances_key()
  local rows = redis.call('HGETALL', key)
  for i = 1, #rows, 2 do
    local is_read, told = pcall(cmsgpack.unpack, rows[i + 1])
    local slots, at = unpack(is_read and type(told) == 'table' and told or {})
    if type(slots) ~= 'number' or type(at) ~= 'number' or at + queue_arg.kept <= queue_now then
      redis.call('HDEL', key, rows[i])
    else
      sum, first = sum + slots, math.min(first or at, at)
    end
  end
  queue.T, queue.G = sum > 0 and sum or nil, first and first + queue_arg.kept or nil
  if sum > before then
    queue.l = math.max(queue.l, sum)
    -- What was a probe is one of those that are known now.
    queue.p, queue.u, queue.n, queue.Q = nil, nil, nil, nil
    queue.B, queue.D, queue.N, queue.b = nil, nil, nil, queue_now + queue_arg.pause
  elseif sum < before then
    -- Another instance may have come in its place.
    queue.l, queue.b, queue.B = math.max(sum, queue.l - (before - sum)), nil, queue.B or 1
  end
  save_queue()
end
