-- Has a destination told again how tasks have ended: one task, or those whose callbacks were given up.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now, name (the destination), id (the one task), owner (absent, or whose it must be), since (ms since
--          1970: those that were given up since), limit (of these)
-- Returns  {how many are told again, of how many that were looked at}; of one task {-1} if it is unknown, or has another
--          destination
-- @include callback/schedule_call
-- @include common/now_ms
-- @include task/readable_record
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now, uncalled = now_ms(arg.now), task_key('uncalled:' .. arg.name)

local function resend(id)
  local rec = readable_record(id)
  -- To whom the task is unknown changes nothing of it.
  if rec and arg.owner and arg.owner ~= rec.o then return -1 end
  redis.call('ZREM', uncalled, id)
  local call = rec and not rec.Z and rec.J
  if not call or call.d ~= arg.name then return -1 end
  local last = call.l
  if not last then return 0 end
  call.Q = call.Q or {}
  local waiting = call.Q[#call.Q]
  last = { last[1], last[2], last[3], last[4], now }
  if waiting and waiting[1] == last[1] then call.Q[#call.Q] = last else call.Q[#call.Q + 1] = last end
  call.l = last
  if call.Q[1] == last then call.t = nil end
  redis.call('ZADD', task_key('owed'), time_text(now), id)
  if not (call.c and call.c[1] > now) then schedule_call(id, rec, now) end
  save_record(id, rec)
  return 1
end

if arg.id then return { resend(arg.id), 1 } end
local count, ids = 0, redis.call('ZRANGEBYSCORE', uncalled, arg.since, '+inf', 'LIMIT', 0, arg.limit)
for _, id in ipairs(ids) do count = count + math.max(0, resend(id)) end
return { count, #ids }
