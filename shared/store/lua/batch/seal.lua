-- Seals a batch: it takes no more children, and ends with the last of them.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: now, id, owner (absent: any), after (see batch/upkeep)
-- Returns  what batch/report returns. One that is sealed stays so
-- @include batch/children
-- @include batch/load_batch
-- @include batch/save_batch
-- @include batch/settle
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_batch(arg.id, arg.owner)
if not rec then return { 'unknown' } end
if rec.G.S then return { 'kept', raw } end
local now, shown = now_ms(arg.now), shown_of(rec.G)
rec.G.S = true
return save_batch(arg.id, rec, now, shown, settle(arg.id, rec, now, arg))
