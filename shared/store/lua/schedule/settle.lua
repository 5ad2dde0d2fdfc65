-- Notes what has come of the start of a run.
--
-- KEYS[1]  the hash tag of its owner's partition
-- ARGV[1]  packed map: now, op, name ('<owner> <name>'), task (the id), due (when the run was due, ms), outcome ('started',
--          'skipped', or 'waiting': it is tried again), why (if it has not started), again (in how many ms it is tried again),
--          asked (true: somebody has asked for the run, which no time has made due)
-- Returns  the record, or false if the schedule is gone
-- @include common/now_ms
-- @include schedule/schedule
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_schedule(arg.name)
if not rec then return false end
if rec.k == arg.op then return raw end
local run, pending = run_of(rec, arg.task), rec.p and rec.p.i == arg.task
if arg.asked and not run then
  run = { t = arg.due, i = arg.task, M = true }
  add_run(rec, run)
end
if arg.outcome == 'started' then
  -- Whoever has given it up did not know that the task is there.
  if run then run.o, run.y = 'started', nil end
  set_last(rec, arg.due, arg.task)
  if pending then rec.p = nil end
elseif pending then
  if run then run.y = arg.why end
  if arg.outcome == 'skipped' then
    rec.p = nil
    if run then run.o = 'skipped' end
  else
    rec.p.r, rec.p.at = rec.p.r + 1, now_ms(arg.now) + arg.again
  end
end
rec.k = arg.op
return save_schedule(arg.name, rec)
