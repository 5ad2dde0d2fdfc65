-- Removes a schedule. The blob of its body is deleted next.
--
-- KEYS[1]  the hash tag of its owner's partition
-- ARGV     now (0: the server's clock), '<owner> <name>'
-- Returns  1, or 0 if there is none
-- @include common/now_ms
-- @include schedule/schedule
task_tag = KEYS[1]
local name, rec = ARGV[2], load_schedule(ARGV[2])
redis.call('ZREM', task_key('schedules'), name)
redis.call('ZREM', task_key('schedules_due'), name)
redis.call('DEL', task_key('schedule_body:' .. name))
if not rec then return 0 end
if rec.d.body[3] then discard_blob(rec.d.body[3], now_ms(tonumber(ARGV[1]))) end
redis.call('DEL', task_key('schedule:' .. name))
return 1
