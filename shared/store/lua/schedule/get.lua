-- Reads a schedule and its body, as they are at one moment.
--
-- KEYS[1]  the hash tag of its owner's partition
-- ARGV     now (0: the server's clock), '<owner> <name>', 1 to read its body too, else 0
-- Returns  {now, record or false, the body or false}
-- @include common/now_ms
-- @include task/keys
task_tag = KEYS[1]
local body = ARGV[3] == '1' and redis.call('GET', task_key('schedule_body:' .. ARGV[2]))
return { now_ms(tonumber(ARGV[1])), redis.call('GET', task_key('schedule:' .. ARGV[2])), body }
