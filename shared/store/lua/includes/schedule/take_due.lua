-- Takes the schedules that are due in a partition, and the blobs that no schedule has: nobody else is told of them within the
-- grace. Returns their names, and in how many ms the next one is due: 0 if there are more, or -1 if there is none.
-- @include common/time_text
-- @include task/keys
local function take_due_schedules(now, limit, grace)
  local key, taken = task_key('schedules_due'), {}
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) <= now then
    taken = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit)
    for _, name in ipairs(taken) do redis.call('ZADD', key, time_text(now + grace), name) end
    first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  end
  return taken, first[2] and math.max(0, first[2] - now) or -1
end
