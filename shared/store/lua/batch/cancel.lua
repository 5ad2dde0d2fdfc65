-- Cancels a batch. From here it takes no child and begins no Then task; its children are cancelled piece by piece.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: now, id, owner (absent: any), status, by (see task/apply), after (see batch/upkeep)
-- Returns  what batch/report returns; {'finished', record} if it has ended otherwise
-- @include batch/load_batch
-- @include batch/save_batch
-- @include batch/settle
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_batch(arg.id, arg.owner)
if not rec then return { 'unknown' } end
if rec.s == 'cancelled' then return { 'kept', raw } end
if is_terminal(rec.s) then return { 'finished', raw } end
local now, shown = now_ms(arg.now), shown_of(rec.G)
rec.G.S, rec.G.J = true, 'cancel'
transition(arg.id, rec, 'cancelled', arg.status, now, 'client', nil, arg.by)
begin_retention(arg.id, rec, now, upkeep(arg).retention, upkeep(arg).completion)
set_batch_due(arg.id, rec, now, arg)
return save_batch(arg.id, rec, now, shown, true)
