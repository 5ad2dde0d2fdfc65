-- Stores a schedule, or puts a definition in the place of the one that it has.
--
-- KEYS[1]  the hash tag of its owner's partition
-- ARGV[1]  packed map: now, op, name ('<owner> <name>'), owner, definition, generation, next (when it is due next, ms; absent:
--          never), most (how many schedules an owner may have)
-- ARGV[2]  its body, unless that is a blob
-- Returns  the record, or false if the owner has as many as it may
-- @include common/now_ms
-- @include schedule/schedule
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now, rec, raw = now_ms(arg.now), load_schedule(arg.name)
if rec and rec.k == arg.op then return raw end
local names = task_key('schedules')
if not rec then
  -- No name has a blank, and no character of an owner comes between a blank and '!'.
  if redis.call('ZLEXCOUNT', names, '[' .. arg.owner .. ' ', '(' .. arg.owner .. '!') >= arg.most then return false end
  rec = { c = now, r = {} }
end
local former, new = rec.d or {}, arg.definition
-- A time that was due a moment ago, and at which nobody has looked yet, is not lost.
if rec.P then
  rec.n = nil
elseif not (rec.n and rec.n <= now and former.cron == new.cron and former.zone == new.zone) then
  rec.n = arg.next
end
local blob = former.body and former.body[3]
if blob and blob ~= new.body[3] then discard_blob(blob, now) end
if new.body[3] then
  redis.call('ZREM', task_key('schedules_due'), new.body[3])
  redis.call('DEL', task_key('schedule_body:' .. arg.name))
else
  redis.call('SET', task_key('schedule_body:' .. arg.name), ARGV[2])
end
rec.d, rec.g, rec.m, rec.k = new, arg.generation, now, arg.op
redis.call('ZADD', names, 0, arg.name)
return save_schedule(arg.name, rec)
