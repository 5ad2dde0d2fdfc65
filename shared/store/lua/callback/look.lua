-- Finds for which destinations there is something to send now; and looks whether anything of what is owed to destinations was
-- lost: because keys were, or because a former version of the app has ended a task, which knows nothing of callbacks.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now, names (the destinations), limit (how many tasks are looked at)
-- Returns  {the names of those for which there is something; in how many ms there is more, or -1}
-- @include callback/note_end
-- @include callback/schedule_call
-- @include common/now_ms
-- @include task/readable_record
local FIRST_LOOK_MS = 3600000
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now, found, next_at = now_ms(arg.now), {}, nil

local function look_after(id)
  local rec = readable_record(id)
  local call = rec and not rec.Z and rec.J
  if not call then
    redis.call('ZREM', task_key('owed'), id)
    return
  end
  redis.call('ZADD', task_key('owed'), time_text(now + math.max(FIRST_LOOK_MS, now - rec.c)), id)
  if is_terminal(rec.s) and call.e ~= rec.a then
    note_end(id, rec, now)
    save_record(id, rec)
  end
  if not redis.call('ZSCORE', task_key('calls:' .. call.d), id) then schedule_call(id, rec, now) end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', task_key('owed'), '-inf', now, 'LIMIT', 0, arg.limit)) do look_after(id) end
for _, name in ipairs(arg.names) do
  local calls = task_key('calls:' .. name)
  local first = redis.call('ZRANGE', calls, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) <= now then
    found[#found + 1] = name
    first = redis.call('ZRANGEBYSCORE', calls, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  end
  if first[2] then next_at = math.min(next_at or math.huge, tonumber(first[2])) end
end
return { found, next_at and math.ceil(next_at - now) or -1 }
