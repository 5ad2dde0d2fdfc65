-- Records how a destination has answered, and sets when it is told the next thing of this task, or the same again.
--
-- KEYS[1]  the hash tag of the task's partition
-- ARGV[1]  packed map: now, id, op (that of the claim), number (of the message that was sent), what ('delivered', 'gone': it is
--          not tried again, or 'retry'), answer (a status or a word), least (ms, before which it is
--          not tried again), base, cap (ms), seed
-- Returns  in how many ms something is to be told next, or -1: nothing, or it is another process' affair by now
-- @include callback/drop_old
-- @include callback/schedule_call
-- @include common/now_ms
-- @include task/backoff
-- @include task/readable_record
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now, rec = now_ms(arg.now), readable_record(arg.id)
local call = rec and not rec.Z and rec.J
if not call then return -1 end
local function ms_until(at) return at and math.max(0, math.ceil(at - now)) or -1 end
if call.o and call.o[1] == arg.op then return ms_until(call.o[2]) end
local message = first_message(call)
local is_claimed, is_first = call.c and call.c[2] == arg.op, message and message[1] == arg.number
-- Its claim is over, or this is a repetition. But what was told was told.
if not is_claimed and not (is_first and arg.what == 'delivered') then return -1 end
if is_claimed then call.c = nil end
local at = now
call.t, call.r = (call.t or 0) + 1, { arg.answer, now }
-- Of progress, the next may have taken the place of what was sent.
if message and not call.Q then call.s = now end
if arg.what ~= 'retry' then
  if is_first then settle_call(arg.id, call, arg.what, now) else call.t = nil end
elseif is_first or message and not call.Q then
  math.randomseed(arg.seed)
  at = now + math.max(arg.least, backoff(arg.base, arg.cap, call.t))
  at = math.min(at, (message[5] or message[2]) + CALL_KEPT_MS)
else
  call.t = nil
end
drop_old(arg.id, call, now)
at = schedule_call(arg.id, rec, at)
call.o = { arg.op, at }
save_record(arg.id, rec)
return ms_until(at)
