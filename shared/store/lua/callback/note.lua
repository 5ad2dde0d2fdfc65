-- Notes how a destination has answered.
--
-- KEYS[1]  the hash tag of the partition that has the destinations
-- ARGV[1]  packed map: now, name, answer (a status or a word), ok (true: it took what it was told)
-- @include common/now_ms
-- @include task/keys
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now = now_ms(arg.now)
local raw = redis.call('HGET', task_key('called'), arg.name)
local is_read, known = pcall(cmsgpack.unpack, raw or '')
local since = false
if not arg.ok then since = is_read and type(known) == 'table' and tonumber(known[3] or nil) or now end
redis.call('HSET', task_key('called'), arg.name, cmsgpack.pack({ arg.answer, now, since }))
