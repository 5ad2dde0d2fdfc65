-- A schedule: what is submitted again and again, and when. Its keys are named in task/keys.lua. Those of an owner lie in one
-- partition, so what an owner has can be counted and listed by one script.
--
-- The fields of its record, a packed map; times are ms:
--   d  the definition, a map of path, query, body (as a record's b), cron, zone, overlap, catch_up, priority, until,
--      start_before and max_run (how long), callback; an absent one was not given
--   g  the generation: another one with each definition that is put
--   c  created at       m  the definition is of     k  last operation id     P  true while it is paused
--   n  when it is due next; absent: never, or it is paused
--   p  the run that is to be started: {t (when it was due), i (the task's id), r (how often it was tried), f (when it was to
--      be first), at (when it is tried next)}
--   l  {when it was due, id} of the last task that was started
--   r  the last runs, the newest last: {t (when it was due), o (started, starting, skipped), i (the task's id), y (why it was
--      skipped, or has not started), M (true if somebody asked for it)}
-- @include common/time_text
-- @include task/keys
local MOST_RUNS = 10

local function load_schedule(name)
  local raw = redis.call('GET', task_key('schedule:' .. name))
  if raw then return cmsgpack.unpack(raw), raw end
end

-- Stores it, and sets when it is looked at next.
local function save_schedule(name, rec)
  local raw, at = cmsgpack.pack(rec), rec.n
  -- Where all times are made up for, those that follow wait behind one that could not be started.
  local is_first = rec.p and rec.p.r > 0 and rec.d.catch_up == 'all'
  if rec.p and (is_first or rec.p.at < (at or math.huge)) then at = rec.p.at end
  redis.call('SET', task_key('schedule:' .. name), raw)
  if at then
    redis.call('ZADD', task_key('schedules_due'), time_text(at), name)
  else
    redis.call('ZREM', task_key('schedules_due'), name)
  end
  return raw
end

local function run_of(rec, id)
  for _, run in ipairs(rec.r) do
    if run.i == id then return run end
  end
end

local function add_run(rec, run)
  rec.r[#rec.r + 1] = run
  if #rec.r > MOST_RUNS then table.remove(rec.r, 1) end
end

local function set_last(rec, at, id)
  if not rec.l or rec.l[1] <= at then rec.l = { at, id } end
end

-- Has a blob deleted that no schedule has.
local function discard_blob(blob, at) redis.call('ZADD', task_key('schedules_due'), time_text(at), blob) end
