-- Says what becomes of a due time, for all processes and for ever: the schedule goes on to its next time, if this one is still
-- to come. A run that was to be started before is given up.
--
-- KEYS[1]  the hash tag of its owner's partition
-- ARGV[1]  packed map: now, op, name ('<owner> <name>'), generation, run (as in the record's r; with i: it is to be started),
--          next (ms; absent: never), grace (in how many ms the start is tried again, if nobody says what came of it)
-- Returns  the record; or false if the schedule is gone, paused, another one by now, or past this time
-- @include common/now_ms
-- @include schedule/schedule
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_schedule(arg.name)
if not rec then return false end
if rec.k == arg.op then return raw end
if rec.g ~= arg.generation or rec.n ~= arg.run.t then return false end
local given_up = rec.p and run_of(rec, rec.p.i)
if given_up then given_up.o = 'skipped' end
rec.p, rec.n, rec.k = nil, arg.next, arg.op
add_run(rec, arg.run)
if arg.run.i then
  local now = now_ms(arg.now)
  rec.p = { t = arg.run.t, i = arg.run.i, r = 0, f = now, at = now + arg.grace }
end
return save_schedule(arg.name, rec)
