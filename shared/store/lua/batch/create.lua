-- Stores a new batch. It is a task without an endpoint: in no count and in no list but that of the batches.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: now, id, op, actor, brief (status for the history), idle, look (ms), rec (the record without its
--          times)
-- Returns  {'created', record}; {'exists', record} if the id was taken: nothing changed
-- @include common/now_ms
-- @include task/append_event
-- @include task/index
-- @include task/record
-- @include task/set_due
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now, rec = now_ms(arg.now), arg.rec
local known, raw = load_record(arg.id)
if known then return { known.k == arg.op and 'created' or 'exists', raw } end
rec.c, rec.m, rec.v, rec.k, rec.h = now, now, 1, arg.op, ''
append_event(rec, now, arg.actor, arg.brief)
raw = save_record(arg.id, rec)
redis.call('DEL', task_key('c:' .. arg.id)) -- left behind by a record that was lost
add_to_index(arg.id, rec)
set_due(arg.id, now + math.min(arg.idle, arg.look))
if rec.J then redis.call('ZADD', task_key('owed'), time_text(now + 3600000), arg.id) end
return { 'created', raw }
