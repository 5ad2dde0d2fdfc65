-- Claims a task of which a destination is to be told something now: nobody else tells it of this task meanwhile, so that it
-- hears of the task in order. What was tried for too long is given up.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now, op, window (how long a claim counts, ms), name (the destination), id
-- Returns  {its record, or nil: there is nothing to send now, or somebody else sends it; 1 if something was given up, else 0; in
--          how many ms there is something, or -1: who sends it now sees to that}
-- @include callback/drop_old
-- @include callback/schedule_call
-- @include common/now_ms
-- @include task/readable_record
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now, calls = now_ms(arg.now), task_key('calls:' .. arg.name)
local at = redis.call('ZSCORE', calls, arg.id)
if not at then return { false, 0, -1 } end
local rec, raw = readable_record(arg.id)
local call = rec and not rec.Z and rec.J
if not call or call.d ~= arg.name then
  redis.call('ZREM', calls, arg.id)
  return { false, 0, -1 }
end
-- One that is longer than any was made by the clock as it was before it was set back.
if call.c and call.c[1] > now and call.c[1] <= now + arg.window then
  if call.c[2] == arg.op then return { raw, 0, -1 } end
  redis.call('ZADD', calls, time_text(call.c[1]), arg.id)
  return { false, 0, -1 }
end
if tonumber(at) > now then return { false, 0, math.ceil(tonumber(at) - now) } end
local dropped = drop_old(arg.id, call, now) and 1 or 0
if first_message(call) then
  call.c = { now + arg.window, arg.op }
  redis.call('ZADD', calls, time_text(call.c[1]), arg.id)
  return { save_record(arg.id, rec), dropped, -1 }
end
schedule_call(arg.id, rec, now)
save_record(arg.id, rec)
return { false, dropped, -1 }
