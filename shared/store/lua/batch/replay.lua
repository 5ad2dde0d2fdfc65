-- Opens a failed batch again: its failed children are to be replayed, see mark.lua, and then its Then task begins anew.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: now, id, op, owner (absent: any), by (see task/apply), after (see batch/upkeep)
-- Returns  what batch/report returns; {'state', record} if nothing in it has failed, or it has not ended
-- @include batch/load_batch
-- @include batch/save_batch
-- @include batch/settle
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_batch(arg.id, arg.owner)
if not rec then return { 'unknown' } end
local batch = rec.G
if rec.k == arg.op then return { 'applied', raw, false, rec.a, false, false, false } end
if rec.s ~= 'failed' or batch.f == 0 and (not batch.h or batch.h == 'completed') then return { 'state', raw } end
local now, shown = now_ms(arg.now), shown_of(batch)
rec.a, rec.k, rec.y = rec.a + 1, arg.op, nil
batch.J, batch.P, batch.d, batch.e, batch.h = 'replay', 0, nil, nil, nil
transition(arg.id, rec, 'running', 'running', now, 'client', 'replay', arg.by)
set_batch_due(arg.id, rec, now, arg)
if rec.J then redis.call('ZADD', task_key('owed'), time_text(now + 3600000), arg.id) end
return save_batch(arg.id, rec, now, shown, true)
