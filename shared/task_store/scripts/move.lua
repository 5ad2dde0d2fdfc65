-- One step of a task's life: claim, accept, update, requeue, hop, finish, cancel, replay, store a result, beat.
--
-- ARGV[1]  packed map; what is absent stays as it is:
--            now, id, op     the clock (0: the server's), the task, this operation
--            from            states the step may start from; absent: any that is not terminal
--            owner           whose task it must be; another's is unknown
--            revive          true: a task that has failed begins again, without what it had stored
--            attempt         the attempt the caller speaks for; absent: trusted as the current one
--            to, path, query the state and endpoint to go to
--            status, brief   text for the caller, and what of it the history keeps
--            who             who causes it
--            requeue         true: a new attempt, at its old place in the queue
--            apart           true: it waits for its deadline, and only then in the queue
--            failed          true: the present attempt counts as failed
--            hop             true: a new attempt at the end of the queue, with a clean slate
--            body, result    {content type, bytes, blob}; with has_body = true what is kept is used and must be there
--            publishes       events published for the attempt
--            due_in          next deadline, in ms from now; absent: a state that has a lease gets a new one
--            retention, announce   for a step that ends the task: how long it is kept, and when its end is to be
--                            announced again if that fails, in ms; 0: nobody wants to hear of it
--            silence         how long nothing need be heard of a task that is not to be dispatched, in ms
--            lease           the endpoint's lease, in ms
--            fetch           true: return the inline body too
-- ARGV[2]  the inline body or result, or ''
-- Returns  {'moved', record, body?, from}     a transition, and where it began (see d in lib.lua)
--          {'kept', record, body?}            done, and state, path and attempt are what they were
--          {'same', record}                   a finished task was finished the same way again: nothing changed
--          {'unknown'}                        no such task
--          {'finished' | 'stale' | 'state' | 'bodiless', record}   refused: nothing changed
--          A replay is answered as the first time.
local arg = given(ARGV[1])
local id = arg.id
local rec, raw, body
if arg.fetch then
  raw, body = unpack(redis.call('MGET', record_key(id), body_key(id)))
  rec = raw and unpacked(raw)
else
  rec, raw = load(id)
end
if not rec or arg.owner and arg.owner ~= rec.o then return { 'unknown' } end

if rec.k == arg.op then
  return { rec.d and 'moved' or 'kept', raw, body or false, rec.d or false, rec = rec, replay = true }
end
if arg.attempt and arg.attempt ~= rec.a then return { 'stale', raw } end
if TERMINAL[rec.s] and not (arg.revive and rec.s == 'failed') then
  return { (arg.to == rec.s and (arg.status or rec.x) == rec.x) and 'same' or 'finished', raw }
end
if arg.from then
  local allowed = false
  for _, state in ipairs(arg.from) do allowed = allowed or state == rec.s end
  if not allowed then return { 'state', raw } end
end
if arg.has_body and not rec.b then return { 'bodiless', raw } end

local now = now_ms(arg.now)
local state, path, attempt = rec.s, rec.p, rec.a
if arg.failed then rec.f = rec.f + 1 end
if arg.revive then
  rec.r, rec.y = nil, nil
  redis.call('DEL', result_key(id))
end
if arg.hop then hop(rec, now) elseif arg.requeue then retry(id, rec) end
if arg.apart then rec.z = 0 end
-- Somebody published it, so it is to be dispatched, until it ends.
if arg.hop or arg.to == 'dispatched' then rec.w = true end
if arg.publishes then rec.n = arg.publishes end
if arg.lease then rec.l = arg.lease end
if arg.status then rec.x = arg.status end
if arg.query then rec.u = arg.query end
if arg.body then
  rec.b, rec.g = arg.body, rec.g or arg.body[3] ~= nil
  if arg.body[3] then redis.call('DEL', body_key(id)) else redis.call('SET', body_key(id), ARGV[2]) end
end
if arg.result then
  rec.r, rec.e, rec.g = arg.result, nil, rec.g or arg.result[3] ~= nil
  if arg.result[3] then redis.call('DEL', result_key(id)) else redis.call('SET', result_key(id), ARGV[2]) end
end

local to, target = arg.to or state, arg.path or path
if to ~= state or target ~= path or arg.hop then enter(id, rec, to, target) end
local transition = to ~= state or target ~= path or rec.a ~= attempt
if transition then remember(rec, now, arg.who, arg.brief) end
if TERMINAL[to] then
  finished(id, rec, now, arg.retention, arg.announce)
elseif arg.due_in then
  set_due(id, now + arg.due_in)
elseif not rec.w then
  set_due(id, now + arg.silence)
elseif LEASED[to] then
  set_due(id, now + rec.l)
end
rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
rec.d = transition and (target ~= path and { attempt, path } or attempt) or nil
return { transition and 'moved' or 'kept', save(id, rec), body or false, rec.d or false, rec = rec }
