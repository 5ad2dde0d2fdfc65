-- Takes one step of a task's life: claim, accept, report, requeue, next step, finish, cancel, replay, store, heartbeat.
--
-- KEYS[1]  the hash tag of the task's partition
-- ARGV[1]  packed map; what is absent stays as it is:
--            now, id, op     the clock (0: the server's), the task, this operation
--            allowed_from    states the step may start from; absent: any that is not terminal
--            owner           the owner that the task must have; another's task is unknown
--            revive          true: a failed task begins again, without what it had stored
--            attempt         the attempt that the caller speaks for; absent: trusted as the current one
--            unfenced        true: a report without an attempt. It may be of an earlier run, or of the previous step
--            told            the end that the text of such a report tells, while `to` does not
--            to, path, query the state and endpoint to go to
--            status, brief   text for the caller, and the part of it that the history keeps; absent: all of it
--            long            {bytes, blob, digest} of the whole text, if status is only its beginning
--            actor           what causes the step
--            new_attempt     true: a new attempt, at its old place in the queue
--            apart           true: the task waits for its deadline first, and then in the queue
--            failed          true: the present attempt counts as failed
--            away            when the backend was away for it, in ms
--            next_step       true: a new attempt at the end of the queue, with a clean slate
--            takes_result    true: the stored result, which must exist, becomes the body of the next step
--            token           by what this attempt sends the task on, by which a repetition is known
--            reason          why, for the history, if the rest does not tell it; of an end that the backbone makes, as
--                            shared/tasks/end_reason.py has it
--            by              the operator who caused the step, for the history, or '' if nobody knows the name
--            once            the mark of an operation that takes this step with the task once only, see record.lua
--            deferred        true: the deferred end of a pipeline's step takes effect
--            progress        0 to 1, of this attempt
--            body, result, checkpoint   {content type, bytes, blob}; with needs_body = true the stored body is used and must
--                            exist
--            publishes       events published for the attempt
--            due_in          next deadline, in ms from now
--            backoff         {base, cap (ms), seed, least (ms)?}: the next deadline by the failures so far, and not before
--                            the least
--                            without either, a leased state gets a new lease
--            retention       how long an ended task is kept, and how long one that is not to be dispatched may be silent,
--                            in ms
--            completion      when the completion of a task that this step ends is to be published again if that fails,
--                            in ms; 0: nobody wants it
--            lease           the endpoint's lease, in ms
--            run, expires    for how long an attempt may run there, and wait, in ms; absent: for ever
--            fetch_body      true: return the inline body too
--            accepted        true: the backend has accepted the attempt
--            released        what the record keeps of a release, see release.lua
--            A task that is to be completed, and whose pipeline has more steps, goes on to the next one instead: with the
--            result as its body, or else with the body that it has.
--            claim           true: a dispatcher claims the attempt; window: within how many ms it records what the
--                            backend answered, before the task is tried again. This is the only place that says what
--                            a claim is.
--            slotless        true: the attempt holds no slot of its queue, so it cannot be claimed; or a function of the
--                            record that tells so
-- ARGV[2]  the inline body, result or checkpoint, or ''
-- Returns  {'applied', record, body?, origin, service time in ms?, slot?, blobs?}   a transition, and where it began (d in
--          record.lua)
--          {'kept', record, body?}            done; state, path and attempt are what they were
--          {'kept', record, body?, false, service time in ms?, slot?, blobs?}   the same, and something follows. Slot is
--          'freed' if the text told an end, or 'held' again if this report took such an end back; a replay does not know
--          the latter. Blobs are those that the record named before; a replay does not know them
--          {'same', record}                   a finished task was finished the same way again: nothing changed
--          {'unknown'}                        no such task
--          {'batch', record}                  it is a batch, which takes no such step
--          {'finished' | 'stale' | 'state' | 'slotless' | 'bodiless' | 'resultless' | 'expired' | 'done', record}
--          refused: nothing changed
--          A replay is answered as the first time.
-- @include common/now_ms
-- @include task/append_event
-- @include task/backoff
-- @include task/begin_next_step
-- @include task/begin_retention
-- @include task/checkpoint
-- @include task/deferred_end_ms
-- @include task/leased
-- @include task/move_record
-- @include task/named_blobs
-- @include task/new_attempt
-- @include task/record
-- @include task/service_time
-- @include task/set_due
-- @include task/set_status
-- @include task/terminal
local PIPELINE_LOST = 'Failed - the next steps of its pipeline were lost.'
local MOST_MARKS = 8
-- A combined script has unpacked the map already.
local arg = type(ARGV[1]) == 'table' and ARGV[1] or cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local id, brief = arg.id, arg.brief or arg.status
if arg.claim then
  arg.actor, arg.allowed_from, arg.needs_body = 'dispatcher', arg.allowed_from or { 'created' }, true
  arg.to, arg.due_in, arg.fetch_body = 'dispatched', arg.window, true
end
local rec, raw, body
if arg.fetch_body then
  raw, body = unpack(redis.call('MGET', task_key('t:' .. id), task_key('b:' .. id)))
  rec = raw and unpack_record(raw)
else
  rec, raw = load_record(id)
end
if not rec or rec.Z or arg.owner and arg.owner ~= rec.o then return { 'unknown' } end
if rec.G then return { 'batch', raw } end

if rec.k == arg.op then
  local kind = rec.d and 'applied' or 'kept'
  local slot = rec.E and rec.w and rec.s == 'running' and 'freed' or false
  local ms = (rec.d or slot) and service_time(rec) or false
  return { kind, raw, body or false, rec.d or false, ms, slot, false, rec = rec, replay = true }
end
if arg.attempt and arg.attempt ~= rec.a then return { 'stale', raw } end
if arg.once and rec.O then
  for _, mark in ipairs(rec.O) do
    if mark == arg.once then return { 'done', raw } end
  end
end
if is_terminal(rec.s) and not (arg.revive and rec.s == 'failed') then
  if (arg.told or arg.to) ~= rec.s then return { 'finished', raw } end
  local is_same = not arg.result or rec.r and rec.r[2] == arg.result[2] and
      (rec.r[3] ~= nil or redis.call('GET', task_key('r:' .. id)) == ARGV[2])
  if is_same and (not arg.status or has_status(rec, arg.status, arg.long)) then return { 'same', raw } end
  if not arg.unfenced then return { 'finished', raw } end
  -- A legacy service may end a task twice. Its caller reads the last text.
  local now, blobs = now_ms(arg.now), rec.g and named_blobs(rec) or false
  append_event(rec, now, arg.actor, brief)
  set_status(rec, arg.status, arg.long)
  rec.m, rec.v, rec.k, rec.d = now, rec.v + 1, arg.op, nil
  -- Nobody waits for a change of a finished task.
  return { 'kept', save_record(id, rec), false, false, false, false, blobs }
end
if arg.allowed_from then
  local allowed = false
  for _, state in ipairs(arg.allowed_from) do allowed = allowed or state == rec.s end
  if arg.deferred and allowed then
    allowed = rec.E and rec.E[1] == arg.to
    brief = allowed and rec.E[2]
  end
  if not allowed then return { 'state', raw } end
end
if rec.V and arg.claim and rec.c + rec.V <= now_ms(arg.now) then return { 'expired', raw } end
if arg.slotless and (arg.slotless == true or arg.slotless(rec)) then
  return { rec.z == 0 and 'state' or 'slotless', raw }
end
-- A former task of this id may have left a queue entry behind.
if rec.T and arg.claim and rec.z == 0 and rec.a == 1 then return { 'state', raw } end
if arg.needs_body and not rec.b then return { 'bodiless', raw } end
if arg.takes_result and not rec.r then return { 'resultless', raw } end

local now = now_ms(arg.now)
local state, path, attempt = rec.s, rec.p, rec.a
local text, long, query, progress = rec.x, rec.X, rec.u, rec.P
local blobs = rec.g and named_blobs(rec) or false
local freed = rec.E and rec.w and state == 'running'
local begins = state == 'dispatched' and not rec.A
if arg.actor == 'client' then
  local ends = arg.told
  if arg.unfenced and rec.H and (state == 'created' or ends or is_terminal(arg.to)) then
    -- It may be the previous step's. So all that it changes is the text; an end takes effect if nothing follows.
    ends = state ~= 'created' and (ends or arg.to) or nil
    if arg.body and arg.body[3] then rec.g = true end
    arg.to, arg.path, arg.query, arg.body = nil, nil, nil, nil
  elseif arg.attempt or is_leased(state) then
    if rec.H then rec.H = nil end
  end
  if ends or rec.E then rec.E = ends and { ends, brief } or nil end
end
local steps
if rec.N and arg.to == 'completed' and rec.N[1] < rec.N[2] then
  local is_read, read = pcall(cmsgpack.unpack, redis.call('GET', task_key('n:' .. id)) or '')
  steps = is_read and type(read) == 'table' and read[rec.N[2] + 1] and read
  -- Somebody deleted or overwrote them.
  if not steps then
    arg.to, arg.status, brief, arg.long = 'failed', PIPELINE_LOST, PIPELINE_LOST, nil
    arg.reason = 'rejected'
  end
end
if steps then
  local number, ended = rec.N[1] + 1, arg.deferred and rec.m or now
  rec.N, rec.E = { number, rec.N[2], arg.op, rec.D and ended - rec.c - rec.D or nil }, nil
  arg.to, arg.next_step, arg.reason, arg.publishes, arg.due_in = 'created', true, 'next-step', 1, steps[1]
  arg.path, arg.query, arg.lease, arg.run, arg.expires = unpack(steps[number + 1])
  arg.status, arg.long = 'created', nil
  arg.token = arg.attempt and (arg.result and (arg.result[3] and arg.result[2] or redis.sha1hex(ARGV[2])) or '')
  if arg.result then
    if rec.r then
      rec.r = nil
      redis.call('DEL', task_key('r:' .. id))
    end
    arg.body, arg.result = arg.result, nil
  elseif rec.r then
    arg.takes_result, arg.body = true, nil
  end
end
if arg.failed then rec.f = rec.f + 1 end
-- A backend has it, or has had it. One that had no room for it or was away has not.
if rec.V and not arg.claim then
  local is_waiting = (arg.to or state) == 'created'
  if not is_waiting or arg.accepted or arg.failed or arg.released or arg.next_step then rec.V = nil end
end
if not arg.claim then
  if arg.away and rec.S and not rec.U then rec.f, rec.U = rec.f - 1, true end
  if arg.away or rec.F then rec.F = arg.away end
  if rec.S then rec.S = nil end
end
if arg.revive then
  rec.r, rec.y = nil, nil
  redis.call('DEL', task_key('r:' .. id))
  if rec.J then redis.call('ZADD', task_key('owed'), time_text(now + 3600000), id) end
  if arg.once then
    rec.O = rec.O or {}
    table.insert(rec.O, 1, arg.once)
    rec.O[MOST_MARKS + 1] = nil
  end
  if rec.B then
    local begun = table.concat({ rec.B, id, rec.a + 1, 'created' }, ' ')
    redis.call('ZADD', task_key('ends'), string.format('%d', now), begun)
  end
end
if arg.next_step then
  begin_next_step(id, rec, now, arg)
elseif arg.new_attempt then
  new_attempt(id, rec)
end
if arg.apart then rec.z = 0 end
if arg.accepted then rec.A = true end
if arg.released then rec.R = arg.released end
-- It was published, so it is to be dispatched until it ends.
if arg.next_step or arg.to == 'dispatched' then rec.w = true end
if arg.publishes then rec.n = arg.publishes end
if arg.lease then rec.l = arg.lease end
if arg.status then set_status(rec, arg.status, arg.long) end
if arg.query then rec.u = arg.query end
if arg.body then
  rec.b, rec.g = arg.body, rec.g or arg.body[3] ~= nil
  if arg.body[3] then redis.call('DEL', task_key('b:' .. id)) else redis.call('SET', task_key('b:' .. id), ARGV[2]) end
end
if arg.result then
  rec.r, rec.e, rec.g = arg.result, nil, rec.g or arg.result[3] ~= nil
  if arg.result[3] then redis.call('DEL', task_key('r:' .. id)) else redis.call('SET', task_key('r:' .. id), ARGV[2]) end
end
if arg.checkpoint then
  rec.g = rec.g or arg.checkpoint[3] ~= nil or nil
  set_checkpoint(id, rec, arg.checkpoint, ARGV[2])
end
if arg.progress then
  rec.P = arg.progress
  local call = rec.J
  if call and progress ~= rec.P and call.w:find('pr', 1, true) then
    call.n = call.n + 1
    call.p = { call.n, now }
    if not call.Q then
      redis.call('ZADD', task_key('calls:' .. call.d), 'NX', time_text(math.max(now, (call.s or 0) + 1000)), id)
    end
  end
end

local to, target = arg.to or state, arg.path or path
if to ~= state or target ~= path or arg.next_step then move_record(id, rec, to, target) end
local is_transition = to ~= state or target ~= path or rec.a ~= attempt
if is_transition then append_event(rec, now, arg.actor, brief, arg.reason, target ~= path and path, arg.by) end
if rec.A and to ~= 'dispatched' then rec.A = nil end
if rec.I and rec.w and state == 'created' and to == 'running' then rec.D = now - rec.c end
local due
if is_terminal(to) then
  if rec.E then rec.E = nil end
  begin_retention(id, rec, now, arg.retention, arg.completion)
elseif arg.due_in then
  due = now + arg.due_in
elseif arg.backoff then
  math.randomseed(arg.backoff.seed)
  due = now + math.max(arg.backoff.least or 0, backoff(arg.backoff.base, arg.backoff.cap, rec.f))
elseif rec.E then
  -- Until the backend has accepted the attempt, the window stays: nothing says yet that it got the task.
  if to ~= 'dispatched' or rec.A then due = now + DEFERRED_END_MS end
elseif not rec.w then
  due = now + arg.retention
elseif is_leased(to) then
  local lease_end = now + rec.l
  if rec.L then
    -- The attempt gets its longer lease when it begins: when its backend has accepted it, or it reports before that. Many
    -- services report that they begin and are silent then, so no report shortens it. The one that outlasts it returns the
    -- task to the backend's own lease.
    local granted = begins and now + rec.l * 2 ^ rec.L or tonumber(redis.call('ZSCORE', task_key('due'), id) or 0)
    if granted > lease_end then lease_end = granted else rec.L = nil end
  end
  due = lease_end
end
if due then
  if rec.V and to == 'created' then due = math.min(due, rec.c + rec.V) end
  if rec.I and rec.D and is_leased(to) then due = math.min(due, rec.c + rec.D + rec.I[1]) end
  set_due(id, due)
end
rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
rec.d = is_transition and (target ~= path and { attempt, path } or attempt) or nil
local kind = is_transition and 'applied' or 'kept'
local slot = false
-- A service that ends its tasks by text is done, and its slot must not stand idle until the end takes effect. The end of a
-- step that was not heard of may be the previous step's.
if rec.E and rec.w and to == 'running' then slot = 'freed' elseif freed and to == state then slot = 'held' end
-- A step that only renews the lease is no change to those that wait for one, nor is a claim: callers do not see it.
local is_shown = is_transition and not arg.claim or arg.result or rec.x ~= text or rec.u ~= query or
    rec.P ~= progress or (rec.X and rec.X[3]) ~= (long and long[3])
local saved = save_record(id, rec, is_shown)
if not (is_transition or slot or blobs) then return { kind, saved, body or false, rec = rec } end
local service_ms = service_time(rec) or false
return { kind, saved, body or false, rec.d or false, service_ms, slot, blobs, rec = rec }
