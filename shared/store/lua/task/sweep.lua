-- Finds what is overdue in one partition and takes the next step for each. Two sweeps at once never get the same task.
--
-- A task's one deadline means, by its state:
--   created      it has waited long, or long enough on its own, or is to start now: make sure that it stands in its
--                endpoint's queue; or it has expired
--   dispatched, running, or created but not to be dispatched: it was silent for a lease, or ran for longer than it may: a
--                new attempt; or its deferred end takes effect
--   finished     its completion is to be published (again), or it was kept long enough: remove it, but a child not
--                before its batch
--   a batch      see batch/set_batch_due.lua: the caller goes on with it
--
-- What became of children and was reported to no batch is found too, uploads that nobody can use any more, and schedules
-- that are due.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now, op, limit, max_attempts, publish_base, cap, wait_cap, retention, completion, blob_grace,
--          step_grace, batch_grace, end_grace, schedule_grace (ms),
--          retrying, excused, silent, exhausted (status texts), texts {expired, overrun, overruns}, seed,
--          outages {path = until when the backend was away}, given_up {path = {for how many ms a task waits at most for a
--          backend that is away for longer, status text}}
-- Returns  {{{what, id, record?, ms?, blobs?, ms?}, …}, in how many ms the next delayed task of the partition starts, or -1,
--          and the next schedule is due, or -1}. At most limit of them. What was done:
--          'waits', 'retry' (a new attempt), 'starts' (it was delayed until now): the caller enqueues it; 'failed'; 'purged';
--          'ended': its deferred end took effect; then also the service time in ms, or false, and after the blobs, how many
--          ms ago it was reported;
--          blobs: those that the record of a new attempt or an ended task named before;
--          'next step': the deferred end of a pipeline's step is to take effect, which the caller sees to, see apply.lua;
--          'completion': the caller publishes its completion, as for 'failed' and 'ended' if the record has y;
--          'batch': the caller goes on with the batch;
--          'child': a child was kept for a retention: the caller removes it if its batch is gone;
--          'end': in the place of the id, what became of a child, as in 'ends' in keys.lua: the caller reports it;
--          'blobs': the task is past retention and its blobs have to go first; then purge.lua
--          'upload': nobody can use it any more: its blob has to go, unless a task has it; then upload/forget.lua. The
--          record is the upload's;
--          'schedule': in the place of the id, '<owner> <name>' of one that is due, or the name of a blob that no schedule has:
--          the caller sees to it, and it is told again after the grace
-- @include callback/kept_ms
-- @include common/now_ms
-- @include schedule/take_due
-- @include task/append_event
-- @include task/backoff
-- @include task/begin_retention
-- @include task/double_lease
-- @include task/give_up
-- @include task/is_delayed
-- @include task/move_record
-- @include task/named_blobs
-- @include task/new_attempt
-- @include task/purge_task
-- @include task/readable_record
-- @include task/record
-- @include task/service_time
-- @include task/set_due
-- @include task/set_status
-- @include task/terminal
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now = now_ms(arg.now)
math.randomseed(arg.seed)
local done = {}

local function fail(id, rec, status, reason)
  local blobs = rec.g and named_blobs(rec) or false
  done[#done + 1] = { 'failed', id, give_up(id, rec, status, reason, now, arg), false, blobs }
end

-- The queue is where a task waits. That it stands there is checked ever more seldom.
local function check_again_later(id, rec, what, is_shown, blobs)
  if is_delayed(rec) then
    what = 'starts'
    remove_from_index(id, rec)
  end
  rec.z = (rec.z or 0) + 1
  -- They may be lost: a task that waits can only be found by them.
  redis.call('SADD', task_key('paths'), rec.p)
  if not redis.call('ZSCORE', task_key('z:' .. rec.p .. ':created'), id) then add_to_index(id, rec) end
  local due = now + backoff(arg.publish_base, arg.wait_cap, rec.z)
  set_due(id, rec.V and math.min(due, rec.c + rec.V) or due)
  done[#done + 1] = { what, id, save_record(id, rec, is_shown), false, blobs }
end

local function end_attempt(id, rec)
  -- One that runs for too long is mostly heard of, and no outage excuses it.
  local ran_s = rec.I and rec.D and rec.c + rec.D + rec.I[1] <= now and rec.I[1] / 1000
  -- The backend lost it with all that it had. A task that ends its backend is silent again the next time.
  local is_excused = not ran_s and (arg.outages[rec.p] or 0) > rec.m and not rec.U
  if is_excused then
    rec.U = true
  else
    rec.f = rec.f + 1
    if not ran_s then rec.S = true elseif rec.S then rec.S = nil end
  end
  rec.E = nil
  if rec.V then rec.V = nil end
  if not rec.w then
    fail(id, rec, arg.silent, 'lease')
  elseif not is_excused and rec.f >= arg.max_attempts then
    local text = ran_s and string.format(arg.texts.overruns, ran_s, rec.f, arg.max_attempts)
    fail(id, rec, text or string.format(arg.exhausted, rec.f, arg.max_attempts), ran_s and 'timeout' or 'lease')
  else
    if not (is_excused or ran_s) then double_lease(rec) end
    -- Where an attempt was silent for a lease, the previous step has long ended.
    if rec.A then rec.H = nil end
    local blobs = rec.g and named_blobs(rec) or false
    new_attempt(id, rec)
    move_record(id, rec, 'created', rec.p)
    set_status(rec, ran_s and string.format(arg.texts.overrun, ran_s) or is_excused and arg.excused or arg.retrying)
    append_event(rec, now, 'reconciler', rec.x, ran_s and 'overrun' or nil)
    rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
    check_again_later(id, rec, 'retry', true, blobs)
  end
end

local function take_deferred_end(id, rec)
  local state, brief = unpack(rec.E)
  local ms, blobs, late = service_time(rec) or false, rec.g and named_blobs(rec) or false, now - rec.m
  rec.E, rec.A, rec.H = nil, nil, nil
  move_record(id, rec, state, rec.p)
  append_event(rec, now, 'client', brief)
  rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
  begin_retention(id, rec, now, arg.retention, arg.completion)
  done[#done + 1] = { 'ended', id, save_record(id, rec, true), ms, blobs, late }
end

local function take_next_step(id, rec, raw)
  -- It is kept until its destination knows how it has ended.
  local told = rec.J and rec.J.Q and is_terminal(rec.s) and not rec.Z and rec.J.Q[#rec.J.Q]
  if told and now < told[5] + CALL_KEPT_MS and now >= rec.m + arg.retention then
    set_due(id, told[5] + CALL_KEPT_MS)
    return
  end
  if rec.G and (not is_terminal(rec.s) or rec.Z or rec.G.J or now >= rec.m + arg.retention) then
    set_due(id, now + arg.batch_grace)
    done[#done + 1] = { 'batch', id, raw }
  elseif rec.G and not rec.y then
    set_due(id, rec.m + arg.retention)
  elseif is_terminal(rec.s) then
    if rec.y and now < rec.m + arg.retention then
      rec.n = rec.n + 1
      set_due(id, math.min(now + backoff(arg.publish_base, arg.cap, rec.n), rec.m + arg.retention))
      done[#done + 1] = { 'completion', id, save_record(id, rec) }
    elseif rec.B and not rec.Z then
      set_due(id, now + arg.retention)
      done[#done + 1] = { 'child', id, raw }
    elseif rec.g then
      set_due(id, now + arg.blob_grace)
      done[#done + 1] = { 'blobs', id, raw }
    else
      purge_task(id, rec)
      done[#done + 1] = { 'purged', id }
    end
  elseif rec.E and (rec.s ~= 'dispatched' or rec.A) then
    -- Not one that came before the backend accepted the attempt: it was the previous step's, or the dispatcher has died.
    if rec.N and rec.E[1] == 'completed' and rec.N[1] < rec.N[2] then
      set_due(id, now + arg.step_grace)
      done[#done + 1] = { 'next step', id }
    else
      take_deferred_end(id, rec)
    end
  elseif rec.V and rec.s == 'created' and rec.c + rec.V <= now then
    fail(id, rec, string.format(arg.texts.expired, math.max(0, rec.c + rec.V - (rec.q or rec.c)) / 1000), 'expired')
  elseif is_delayed(rec) and (rec.q or rec.c) > now then
    -- Its deadline was of another time, or it would expire before.
    add_to_index(id, rec)
    set_due(id, math.min(rec.q or rec.c, rec.c + (rec.V or math.huge)))
  elseif rec.s == 'created' and rec.w then
    local given_up = arg.given_up[rec.p]
    if given_up and (rec.q or rec.c) + given_up[1] <= now then
      fail(id, rec, given_up[2], 'unreachable')
    else
      check_again_later(id, rec, 'waits', false, false)
    end
  else
    end_attempt(id, rec)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', task_key('due'), '-inf', now, 'LIMIT', 0, arg.limit)) do
  -- A full Redis refuses a script's first write if that needs room. This one never does, so a full Redis is still swept,
  -- and gets room again.
  redis.call('ZREM', task_key('due'), id)
  if string.sub(id, 1, 2) == 'u/' then
    local raw = redis.call('GET', task_key('u:' .. string.sub(id, 3)))
    if raw then
      set_due(id, now + arg.blob_grace)
      done[#done + 1] = { 'upload', string.sub(id, 3), raw }
    end
  else
    local rec, raw = readable_record(id)
    if rec then take_next_step(id, rec, raw) end
  end
end
local schedules, schedule_in = take_due_schedules(now, arg.limit, arg.schedule_grace)
for _, name in ipairs(schedules) do done[#done + 1] = { 'schedule', name } end
local ends, old = task_key('ends'), time_text(now - arg.end_grace)
for _, report in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', old, 'LIMIT', 0, arg.limit)) do
  redis.call('ZREM', ends, report)
  redis.call('ZADD', ends, time_text(now), report)
  done[#done + 1] = { 'end', report }
end
local first = redis.call('ZRANGE', task_key('starts'), 0, 0, 'WITHSCORES')
return { done, first[2] and math.max(0, first[2] - now) or -1, schedule_in }
