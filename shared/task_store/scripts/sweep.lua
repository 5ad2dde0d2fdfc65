-- Finds what is overdue in one partition and takes the next step for each; two at once never get the same task.
--
-- A task's one deadline means, by its state:
--   created      nobody claimed the event (lost publish, lost delivery), or a pause is over: publish (again)
--   dispatched, running, or created but not to be dispatched: nothing was heard for a lease: a new attempt
--   finished     its end is to be announced (again), or it was kept long enough: remove
--
-- ARGV[1]  packed map: now, op, limit, max_attempts, publish_base, cap, retention, announce,
--          blob_grace (ms), seed
-- Returns  {{what, id, record?}, …}, at most limit of them. What was done:
--          'publish', 'retry' (a new attempt): the caller is to publish it; 'failed'; 'purged';
--          'announce': the caller is to announce its end, as that of one that 'failed' if it has y;
--          'blobs': the task is past retention, its blobs have to go first; then `forget` it.
local arg = cmsgpack.unpack(ARGV[1])
local now = now_ms(arg.now)
math.randomseed(arg.seed)
local done = {}

local function finish(id, rec, status)
  enter(id, rec, 'failed', rec.p, now)
  rec.x = status
  remember(rec, now, 'reconciler', status)
  rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
  finished(id, rec, now, arg.retention, arg.announce)
  done[#done + 1] = { 'failed', id, save(id, rec) }
end

local function publish(id, rec, what)
  rec.n = rec.n + 1
  set_due(id, now + backoff(arg.publish_base, arg.cap, rec.n))
  done[#done + 1] = { what, id, save(id, rec) }
end

local function lease_over(id, rec)
  rec.f = rec.f + 1
  local silence = 'the backend was not heard of for too long'
  if not rec.w then
    finish(id, rec, 'Failed - ' .. silence .. '.')
  elseif rec.f >= arg.max_attempts then
    finish(id, rec, 'Failed - ' .. silence .. ' (attempt ' .. rec.f .. ' of ' .. arg.max_attempts .. ').')
  else
    retry(id, rec)
    enter(id, rec, 'created', rec.p, now)
    rec.x = 'Retrying - ' .. silence
    remember(rec, now, 'reconciler', rec.x)
    rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
    publish(id, rec, 'retry')
  end
end

local function step(id, rec)
  if TERMINAL[rec.s] then
    if rec.y and now < rec.m + arg.retention then
      rec.n = rec.n + 1
      set_due(id, math.min(now + backoff(arg.publish_base, arg.cap, rec.n), rec.m + arg.retention))
      done[#done + 1] = { 'announce', id, save(id, rec) }
    elseif rec.g then
      set_due(id, now + arg.blob_grace)
      done[#done + 1] = { 'blobs', id }
    else
      purge(id, rec)
      done[#done + 1] = { 'purged', id }
    end
  elseif rec.s == 'created' and rec.w then
    if rec.n >= arg.max_attempts then
      finish(id, rec, 'Failed - unable to send to backend service.')
    else
      publish(id, rec, 'publish')
    end
  else
    lease_over(id, rec)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, arg.limit)) do
  -- Redis when full refuses a script's first write if that needs room. This one never does, so a full Redis is still
  -- swept, and so gets room again.
  redis.call('ZREM', DUE, id)
  local rec = load(id)
  if rec then step(id, rec) end
end
return done
