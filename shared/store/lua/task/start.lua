-- Starts the delayed tasks of one partition whose time has come. A sweep does so too, by their deadlines: this one is for the
-- moment itself, and costs nothing else.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now, limit, publish_base, wait_cap (ms), seed
-- Returns  {{{id, record}, …}, in how many ms the next one starts, 0 if it is to be asked again now, or -1}. The caller
--          enqueues them; the deadline of each finds it if the caller does not
-- @include common/now_ms
-- @include task/backoff
-- @include task/index
-- @include task/is_delayed
-- @include task/readable_record
-- @include task/set_due
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now, starts, started = now_ms(arg.now), task_key('starts'), {}
math.randomseed(arg.seed)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', starts, '-inf', now, 'LIMIT', 0, arg.limit)) do
  redis.call('ZREM', starts, id)
  local rec = readable_record(id)
  if rec and is_delayed(rec) then
    remove_from_index(id, rec)
    if (rec.q or rec.c) <= now then
      rec.z = 1
      redis.call('SADD', task_key('paths'), rec.p)
      local due = now + backoff(arg.publish_base, arg.wait_cap, 1)
      set_due(id, rec.V and math.min(due, rec.c + rec.V) or due)
      started[#started + 1] = { id, save_record(id, rec) }
    end
    add_to_index(id, rec)
  elseif rec then
    -- A process of an earlier version has taken a step with it, which knows no such index.
    for _, path in ipairs({ rec.p, rec.Y }) do redis.call('ZREM', task_key('z:' .. path .. ':delayed'), id) end
  end
end
local first = redis.call('ZRANGE', starts, 0, 0, 'WITHSCORES')
return { started, first[2] and math.max(0, first[2] - now) or -1 }
