-- Pauses a schedule, or lets it go on.
--
-- KEYS[1]  the hash tag of its owner's partition
-- ARGV[1]  packed map: op, name ('<owner> <name>'), generation, paused, next (if it goes on: when it is due next, ms; absent:
--          never)
-- Returns  {'unknown'}, {'stale'} if it has another definition by now, or {'set', record}
-- @include schedule/schedule
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_schedule(arg.name)
if not rec then return { 'unknown' } end
if (rec.P or false) == arg.paused then return { 'set', raw } end
if rec.g ~= arg.generation then return { 'stale' } end
rec.P, rec.n, rec.k = arg.paused or nil, not arg.paused and arg.next or nil, arg.op
return { 'set', save_schedule(arg.name, rec) }
